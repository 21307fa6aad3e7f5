"""The end of a run of several processes: told to stop, or one of them failed.

Signals ask for a checkpoint at the end of the step. Where a process fails, all of them end, and one message names the
process, the step and its samples: the one that failed writes it, or, where it was killed, one of the others.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Peers", "ProcessError"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_FAILED = "failed"
_PATIENCE = 3.0
"""Seconds that processes leave each other to say what happened."""
_GRACE = 20.0
"""Seconds from SIGTERM to the end of a process that does not get on with its step: torchrun kills after 30."""


class ProcessError(RuntimeError):
    """What goes wrong in one of several processes, with the process, the step and its samples."""


class Peers:
    """This process among the others. A context: inside, SIGTERM and SIGUSR1 ask for a checkpoint.

    Args:
        rank, world: index and number of processes.
        samples: (step, rank) -> names of the samples that this process has in that step, both from 0.

    Attributes:
        stop_asked: whether a signal came.
    """

    def __init__(self, rank: int, world: int, samples: Callable[[int, int], str]) -> None:
        self.rank, self.world, self.samples = rank, world, samples
        self.stop_asked = False
        self.step = 0
        self._store = _store() if world > 1 else None
        self._before: dict[signal.Signals, Any] = {}
        self._terminated = threading.Event()
        self._ended = threading.Event()

    def __enter__(self) -> Peers:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
            if self.world > 1:
                self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before and self.world > 1:
            signal.set_wakeup_fd(-1)

    def is_stopping(self) -> None:
        """All have agreed to stop: from here on this process is not blocked but writes its checkpoint."""
        self._ended.set()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.stop_asked = True

    @contextmanager
    def step_of_all(self, step: int) -> Iterator[None]:
        """A step, from 0. An error in it ends all processes.

        Raises:
            ProcessError: an error of this process, or another one is gone; only in the process that is to tell.
            SystemExit: another process tells.
        """
        self.step = step
        try:
            yield
        except FloatingPointError as error:  # all processes have it together
            if self.rank > 0:
                raise SystemExit(1) from error
            raise
        except Exception as error:
            if self.world == 1:
                raise
            if _is_lost(error):
                self._tell_who_is_lost(error)
            if not self._is_first_to_tell():
                raise SystemExit(1) from error
            raise ProcessError(
                f"process {self.rank} failed in step {step + 1}: {type(error).__name__}: {error}\n"
                f"its samples: {self.samples(step, self.rank)}"
            ) from error

    def _tell_who_is_lost(self, error: BaseException | None) -> None:
        lost = self._lost()
        if lost is None or not self._is_first_to_tell():
            raise SystemExit(1) from error
        who = ", ".join(map(str, lost)) or "another"
        samples = "; ".join(f"of process {rank}: {self.samples(self.step, rank)}" for rank in lost)
        raise ProcessError(
            f"process {who} was lost in step {self.step + 1}, without a word of its own (killed, or out of memory?); "
            f"samples {samples or 'unknown'}. Started again, the run goes on from its last checkpoint"
        ) from error

    def _is_first_to_tell(self) -> bool:
        if self._store is None:
            return self.rank == 0
        try:
            told = self._store.compare_set(_FAILED, "", str(self.rank))
        except RuntimeError:  # its host is gone
            return self.rank == 0
        return bool(told == str(self.rank).encode())

    def _lost(self) -> list[int] | None:
        """Processes that do not answer; None where somebody has told what happened."""
        if self._store is None:
            return [1 - self.rank] if self.world == 2 else []
        try:
            self._store.set(f"here/{self.rank}", "")
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline:
                if self._store.check([_FAILED]):
                    return None
                time.sleep(0.1)
            return [rank for rank in range(self.world) if not self._store.check([f"here/{rank}"])]
        except RuntimeError:
            return [1 - self.rank] if self.world == 2 else []

    # -- blocked in a collective ---------------------------------------------------------------------

    def _watch(self) -> None:
        """NCCL waits for a lost process for minutes, and no Python runs meanwhile in the main thread: another thread
        reads the signals (torchrun sends SIGTERM when it sees that a process has ended)."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def read() -> None:
            while not self._ended.is_set():
                if signal.SIGTERM in os.read(reading, 64):
                    self._end_if_blocked()

        threading.Thread(target=read, name="signals", daemon=True).start()

    def _end_if_blocked(self) -> None:
        step, deadline = self.step, time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            if self._ended.wait(0.5) or self.step != step:
                return
            if self._store is not None and self._told():
                os._exit(1)
        try:
            self._tell_who_is_lost(None)
        except ProcessError as error:
            os.write(2, f"vlm: {error}\n".encode())
        except SystemExit:
            pass
        os._exit(1)

    def _told(self) -> bool:
        assert self._store is not None
        try:
            return bool(self._store.check([_FAILED]))
        except RuntimeError:
            return False


def _store() -> dist.Store | None:
    """Of the launcher: it outlives the processes. None where the processes have one of their own."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() not in ("true", "1"):
        return None
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=30)
    )
    return dist.PrefixStore(f"vlm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _is_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process has gone."""
    kinds = tuple(getattr(dist, name) for name in ("DistBackendError", "DistNetworkError") if hasattr(dist, name))
    text = str(error)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and any(word in text for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"))
    )
