"""`python -m vlm` is `vlm`; launchers of several processes start it this way."""

import atexit
import os
import sys

from vlm.cli import main


def _leave(status: int) -> None:
    """End a process that is one of several at once, with all that Python has to do at its end.

    What PyTorch takes down after that are threads that other processes may still speak to: now and then such a process
    ended with "terminate called without an active exception" after everything was written.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    found = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(found)
    raise SystemExit(found)
