"""Interrupt code at a certain line, as a signal handler does, in the same thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupter:
    """Call a function once, when a line of some code is about to run.

    :param path: what the file names of that code begin with
    :param step: which one, counted from 1 on in the order of running
    """

    def __init__(self, path: str, step: int, function: Callable[[], object]) -> None:
        #: the lines that ran
        self.places: list[tuple[str, int]] = []
        self._path = path
        self._step = step
        self._function = function

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """Look at one event of the interpreter's: a trace function."""
        if not frame.f_code.co_filename.startswith(self._path):
            return None
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) == self._step:
                # As in a signal handler: what it calls is not traced.
                sys.settrace(None)
                self._function()
                sys.settrace(self.trace)
        return self.trace

    def __enter__(self) -> Interrupter:
        self._tracer = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *args: object) -> None:
        sys.settrace(self._tracer)

    def run(self, function: Callable[[], object]) -> None:
        """Call a function, to be interrupted."""
        with self:
            function()
