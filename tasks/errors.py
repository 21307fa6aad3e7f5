"""The one error that model text can cause."""

from __future__ import annotations


class ParseError(ValueError):
    """A model's text is not of its task's form. It scores zero; it never becomes a made-up default."""
