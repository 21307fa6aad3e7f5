"""`python -m vlm` is `vlm`; launchers of several processes start it this way."""

from vlm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
