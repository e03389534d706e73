"""Give the tests here a server that echoes lines over TCP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.servers import Server, echo_lines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server("tcp", tmp_path, echo_lines) as server:
        yield server
