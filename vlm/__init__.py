"""Describe what people wear: captions, answers, boxes and attributes from one look at a photo."""

import vlm.auto  # noqa: F401 - registers the model with transformers' Auto classes
from vlm.api import VLM, Request, load
from vlm.outfit import describe_outfit

__all__ = ["VLM", "Request", "describe_outfit", "load"]
