"""`vlm train CONFIG --launch zero2 --num-processes 8`: the files in launch/, through `accelerate launch`.

The processes are started and watched by torchrun; what is added here is where the files lie, and an exit status that
says how the run ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

__all__ = ["PREEMPTED", "launch_train", "launches", "split_arguments"]

PREEMPTED = 75
"""Exit status of a run that was told to stop (SIGTERM, SIGUSR1) and has written a checkpoint: start it again.
EX_TEMPFAIL of sysexits.h; launch/slurm/train.sbatch puts the job back into the queue on it."""

_FOLDERS = (Path(__file__).parent / "_launch", Path(__file__).parent.parent / "launch")
"""In a wheel, and in a checkout."""
_MACHINES = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""Options that accelerate takes under the same names."""


def launches() -> dict[str, Path]:
    """Name -> accelerate's configuration file."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def split_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the options of the launch out of those of `vlm train`; `launch` is None where there are none.

    Exits with a usage error: an option of the launch without --launch.
    """
    parser = argparse.ArgumentParser(prog="vlm train", add_help=False, allow_abbrev=False)
    parser.add_argument("--launch", metavar="NAME")
    for name in _MACHINES:
        kind = str if name == "main_process_ip" else int
        parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", type=kind, dest=name)
    options, rest = parser.parse_known_args(arguments)
    given = [f"--{name.replace('_', '-')}" for name in _MACHINES if getattr(options, name) is not None]
    if options.launch is None and given:
        parser.error(f"{', '.join(given)} without --launch; known launches: {', '.join(launches())}")
    return options, rest


def launch_train(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run `vlm train` with these arguments in several processes; returns the exit status of the first that failed.

    Args:
        options: of `split_arguments`.
        arguments: the others: the configuration and its overrides.

    Raises:
        ValueError: no launch of that name, or one whose engine is not installed.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = launch_command_parser().parse_args(_accelerate_arguments(options, arguments))
    # So that SIGUSR1 reaches the processes and does not end their launcher.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    try:
        launch_command(args)
    except ImportError as error:
        raise ValueError(f"{error}; with vlm: pip install 'vlm[deepspeed]'") from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode != PREEMPTED:
            print(f"vlm: {_first_failure(rank, failure.exitcode)}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        # The processes had the same signal, and time to end.
        return PREEMPTED if error.sigval in (signal.SIGTERM, signal.SIGUSR1) else 128 + error.sigval
    return 0


def _first_failure(rank: int, exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"process {rank} was the first to end, by {name}{hint}"
    return f"process {rank} was the first to end, with status {exitcode}"


def _accelerate_arguments(options: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """Of `accelerate launch`."""
    known = launches()
    if options.launch not in known:
        raise ValueError(f"unknown launch {options.launch!r}; known: {', '.join(known)}")
    file = known[options.launch]
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    command = [f"--config_file={file}"]
    for name in _MACHINES:
        if getattr(options, name) is not None:
            command.append(f"--{name}={getattr(options, name)}")
    deepspeed = values.get("deepspeed_config", {}).get("deepspeed_config_file")
    if deepspeed is not None:  # it is named relative to a checkout
        command.append(f"--deepspeed_config_file={file.parent / Path(deepspeed).relative_to('launch')}")
    on_cpu = ["--cpu=true"] if values.get("use_cpu") and not any(word.startswith("--cpu") for word in arguments) else []
    return [*command, "--module", "vlm", "train", *arguments, *on_cpu]
