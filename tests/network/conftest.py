"""Lay a cable for the test, put the test at one end and servers at the other.

Without namespaces the tests are skipped, and say what is missing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from tests.sockets.checks import open_sockets
from tests.sockets.servers import Script, echo_lines

from .cable import CUTS, Cable
from .far_server import FarServer

Serve: TypeAlias = Callable[..., FarServer]


@pytest.fixture(autouse=True)
def cable() -> Iterator[Cable]:
    """Join the namespaces, and put the test's thread into the client's.

    The test fails if it leaves a socket open.
    """
    cable = Cable()
    try:
        _lay(cable)
        before = open_sockets()
        with cable.near_end():
            yield cable
        assert open_sockets() == before
    finally:
        cable.remove()


def _lay(cable: Cable) -> None:
    try:
        cable.lay()
    except FileNotFoundError:
        pytest.skip("there is no ip (Debian: iproute2) to make network namespaces with")
    except subprocess.CalledProcessError as error:
        pytest.skip(
            f"network namespaces, which take root and veth, are refused: {error.stderr.strip()}"
        )


@pytest.fixture
def serve(cable: Cable) -> Iterator[Serve]:
    """Return a function that starts a server at the far end, which ends with the test."""
    with ExitStack() as stack:

        def start(kind: str = "tcp", script: Script | None = echo_lines) -> FarServer:
            return stack.enter_context(FarServer(cable, kind, script))

        yield start


@pytest.fixture(params=CUTS)
def how(request: pytest.FixtureRequest) -> str:
    """Return a way to cut the cable."""
    return str(request.param)


@pytest.fixture(params=["tcp", "tls13"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of socket to serve on."""
    return str(request.param)
