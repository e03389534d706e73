"""Show on standard error what is being measured: a line for each case."""

from __future__ import annotations

import sys
from time import perf_counter

_SHORTEST_PAUSE = 0.2


class Progress:
    """The line of one case, which counts its rounds; on a terminal while they are done.

    :param backend: what is measured
    :param case: the case
    """

    def __init__(self, backend: str, case: str) -> None:
        self._title = f"{backend:14} {case:14}"
        self._begun = self._shown = perf_counter()
        self._rounds = 0
        self._live = sys.stderr.isatty()
        if self._live:
            self._show("\r")

    def round_done(self) -> None:
        """Count a round."""
        self._rounds += 1
        if self._live and perf_counter() - self._shown > _SHORTEST_PAUSE:
            self._show("\r")

    def case_done(self) -> None:
        """End the line."""
        self._show("\n")

    def _show(self, end: str) -> None:
        self._shown = perf_counter()
        print(
            f"{self._title} {self._rounds:3} rounds {self._shown - self._begun:6.1f} s",
            end=end,
            file=sys.stderr,
            flush=True,
        )
