"""`vlm push` and `vlm pull`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["add_hub_commands"]


def add_hub_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Args: command: makes a command of a name, a function and a description (see `vlm.cli`)."""
    push = command("push", _push, "upload a checkpoint with its card, calibration and results to the Hub")
    push.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint directory, or embedded")
    push.add_argument("repo_id", metavar="ID", help="owner/name; made where there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a private repository")
    push.add_argument("--revision", metavar="BRANCH", help="made where there is none (default: main)")
    push.add_argument("--message", metavar="TEXT", help="of the commit")
    push.add_argument("--card", metavar="MD", help="model card (default: README.md of the directory, or a short one)")
    push.add_argument("--results", metavar="JSON", help="what `vlm eval --output` wrote; the card is made of it")
    push.add_argument("--license", metavar="ID", help="of the weights, for the card: apache-2.0, cc-by-4.0, ...")
    pull = command("pull", _pull, "fetch a whole checkpoint from the Hub into a directory")
    pull.add_argument("repo_id", metavar="ID", help="owner/name")
    pull.add_argument("directory", nargs="?", metavar="DIR", help="a new directory (default: the repository's name)")
    pull.add_argument("--revision", help="branch, tag or commit (default: main)")


def _push(args: argparse.Namespace) -> int:
    from vlm.hub import EMBEDDED
    from vlm.push import push

    commit = push(
        EMBEDDED if args.checkpoint == "embedded" else args.checkpoint,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        commit_message=args.message,
        card=args.card,
        results=args.results,
        license=args.license,
    )
    print(commit.commit_url)
    return 0


def _pull(args: argparse.Namespace) -> int:
    from vlm.hub import pull

    print(pull(args.repo_id, args.directory, revision=args.revision))
    return 0
