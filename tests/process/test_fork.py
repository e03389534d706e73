"""A forked child can't use the pools that its parent runs."""

from __future__ import annotations

import pytest

from tests.conftest import BACKENDS
from tests.sockets.servers import Server

from .programs import finish, start


@pytest.mark.parametrize("anyio_backend", list(BACKENDS))
@pytest.mark.parametrize("place", ["loop", "worker"])
def test_a_forked_child_is_refused(server: Server, place: str, anyio_backend: str) -> None:
    """Every use of a pool or a manager says why; the parent's connection is as good as before.

    The child goes on in the parent's own event loop, or is a multiprocessing worker with a new one.
    """
    process = start("forking", *server.remote[1:], place, anyio_backend)
    said, errors = finish(process)
    assert process.returncode == 0, errors
    *child, parent = said.splitlines()
    uses = [line.partition(": ")[0] for line in child]
    if place == "worker":
        # Replicas are nobody's here: a pool of the child's own can have them.
        assert child.pop() == "own: > child, 1 connection"
        assert uses.pop() == "own"
    assert uses == ["acquire", "acquire_nowait", "exchange", "retire", "ask_manager"]
    assert all("belongs to the process that this one was forked from" in line for line in child)
    assert parent == "parent: > after, 1 opened"
    assert len(server.peers) == 1 + (place == "worker")
