"""``python -m mmdask``: the same as the command ``mmdask``."""

from mmdask.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
