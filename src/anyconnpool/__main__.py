"""Run the command line: ``python -m anyconnpool``."""

from __future__ import annotations

from anyconnpool.command import main

if __name__ == "__main__":
    raise SystemExit(main())
