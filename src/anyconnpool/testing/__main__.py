"""Run the servers that the documentation's examples talk to: ``python -m anyconnpool.testing``."""

from __future__ import annotations

from anyconnpool.testing._example_servers import main

if __name__ == "__main__":
    raise SystemExit(main())
