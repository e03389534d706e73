"""Locks that a signal handler, a finalizer or a forked child may meet.

A thread can take such a lock again. A child that is forked while another thread has it would wait
for it for ever; so whoever forks takes all of them before.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import ref

# In the order of their making, and never iterated over while it may change.
_locks: dict[ref[Any], None] = {}
_forking = threading.RLock()
_held: list[list[Any]] = []


def make_lock() -> Any:
    """Return a new lock, a :class:`threading.RLock`."""
    lock = threading.RLock()
    _locks[ref(lock, _forget)] = None
    return lock


def _forget(reference: ref[Any]) -> None:
    _locks.pop(reference, None)


def _before_fork() -> None:
    _forking.acquire()
    held: list[Any] = []
    _held.append(held)
    for reference in list(_locks):
        lock = reference()
        if lock is not None:
            lock.acquire()
            held.append(lock)


def _after_fork() -> None:
    for lock in _held.pop():
        lock.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
