"""The command line ``anyconnpool``: an echo server, an echo client, a load.

Nothing imports it. The packages of the extra ``cli`` are imported by ``_screen``, ``_plot`` and
``_completion`` alone, when they are needed.
"""

from __future__ import annotations

from anyconnpool.command._main import main

__all__ = ["main"]
