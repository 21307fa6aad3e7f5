"""The options of `vlm train`: a YAML file and what the command line changes in it."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from vlm.config import ADAPTERS, TrainConfig

__all__ = ["parse_config"]


def parse_config(argv: Sequence[str]) -> tuple[TrainConfig, bool]:
    """`CONFIG.yaml [--peft KIND] --dotted.override=value ... [--restart]` -> configuration and whether to resume."""
    parser = ArgumentParser(prog="vlm train", description="Train a one-look model.", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file; may also stand first, without the flag")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start afresh where output_dir holds a run already; that one is moved to output_dir/previous",
    )
    parser.add_argument(
        "--peft",
        metavar="KIND",
        help=f"train an adapter ({', '.join(ADAPTERS)}) and export it alone: as --adapter.kind=KIND "
        "--adapter.export=adapter, which further options may change",
    )
    parser.add_class_arguments(TrainConfig, as_group=False)
    arguments = _with_peft(list(argv))
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--config")
    parsed = parser.parse_args(arguments)
    restart = bool(parsed.pop("restart"))
    for name in ("config", "peft"):
        parsed.pop(name, None)
    # jsonargparse 4.49 renamed it.
    values = parser.instantiate(parsed) if hasattr(parser, "instantiate") else parser.instantiate_classes(parsed)
    return TrainConfig(**vars(values)), not restart


def _with_peft(arguments: list[str]) -> list[str]:
    """`--peft KIND` becomes what it stands for, behind the configuration and before all other options."""
    for index, word in enumerate(arguments):
        if word == "--peft" or word.startswith("--peft="):
            length = 1 if "=" in word else 2
            kind = word.partition("=")[2] if "=" in word else "".join(arguments[index + 1 : index + 2])
            if kind not in ADAPTERS:
                raise ValueError(f"--peft is {kind!r}; expected one of {', '.join(ADAPTERS)}")
            rest = arguments[:index] + arguments[index + length :]
            start = 1 if rest and not rest[0].startswith("-") else 2 if rest[:1] == ["--config"] else 0
            return [*rest[:start], f"--adapter.kind={kind}", "--adapter.export=adapter", *rest[start:]]
    return arguments
