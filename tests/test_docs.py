"""Every Python block of the root's pages and of all below docs/ is run against live servers.

Blocks are taken from the text as they stand; these are the rules by which a page is written:

- A block that calls `anyio.run` or `trio.run` is a program. Any other is a fragment: it may use
  `await` and, as the text around it has it, the names of `FRAGMENT_NAMES` and a `pool` of the
  server on port 8999.
- The ports say which server a block talks to: one of those that `python -m anyconnpool.testing`
  runs, or the one of examples/shelf_server.py. For the test they run at other ports, which take the
  place of those in the block.
- A program that makes a listener is a server: it is asked a question by a client that then resets
  its connection, and by another one, then cancelled.
- A block whose first line is a comment with the path of a file of the repository is a piece of that
  file, word for word; it runs where the file does.
- Above the first block that connects to a port, a page has the command that starts its server.
- Blocks may import from examples/.
- If lines that print have a comment, the block prints exactly what the comments say, one by one.
- A block with `.open()` is asyncio's alone: on trio it is left out. So is one that calls
  `asyncio.run`, which is a program for asyncio's own loop and left out on uvloop, too.
- A block that makes a `Starlette` is an application: its page `/ask/hello` answers `> hello`, and a
  question of two lines is refused.
- The first block of the README is also run as a program of its own, against the server that the
  command above it starts, and prints what the block of text below it shows.
- Time limits of a second or more are ten times as long as they stand there: servers of readers
  are not starved by other tests.
- `anyio.sleep` doesn't wait, and `anyio.open_signal_receiver` gets its first signal at once.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import connect_tcp, create_task_group, open_signal_receiver, to_thread
from anyio.abc import SocketAttribute
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from starlette.testclient import TestClient

from anyconnpool import ConnectionPool, FramedStream
from shelf_server import Shelves

from .cases import in_case
from .example_servers import certificates, example_servers
from .sockets.checks import reset

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(
        page
        for page in DOCS.rglob("*")
        if page.suffix in (".md", ".rst") and DOCS / "_build" not in page.parents
    ),
]

# How a block of Python is written, and whatever may be meant as one.
BLOCK_PATTERNS = {
    ".md": re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL),
    ".rst": re.compile(
        r"^( *)\.\. code-block:: python\n(?:\1 +:.*\n)*\n((?:(?:\1 {3,}.*)?\n)+)", re.MULTILINE
    ),
}
BLOCK_MARKER = re.compile(r"(?:```|~~~|::) *\{?(?:code(?:-block)?\})? *i?py")

# What a block needs a server for, and the commands that start one.
PORT = re.compile(r"\b(?:8999|900[0-5]|9443)\b")
COMMAND = re.compile(r"python (?:-m anyconnpool(?:\.testing| echo-server)|examples/\w+_server\.py)")

# The first line of a block that is a piece of a file.
PIECE = re.compile(r"# ((?:examples|tests)/\S+\.py)\n")

Backend = tuple[str, dict[str, Any]]


def is_complete(reply: bytes) -> bool:
    """Tell whether a reply is whole, as a fragment's own protocol would."""
    return reply == b"> hello"


FRAGMENT_NAMES: dict[str, object] = {"request": b"hello", "is_complete": is_complete}


#: where the pool of a fragment leads to
FRAGMENT_PORT = 8999
#: where the server of examples/ is that has a page of its own
SHELVES_PORT = 9005

#: by the ports that the pages name, the real ones; where the certificates are
Servers = tuple[dict[int, int], Path]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run the servers that the examples talk to."""
    directory = tmp_path_factory.mktemp("servers")
    with example_servers("--tls", str(directory)) as ports:
        yield ports, directory


def blocks_of(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the text of each Python block of a page."""
    text = page.read_text("utf-8")
    for match in BLOCK_PATTERNS[page.suffix].finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        yield line, textwrap.dedent(match[2]).strip() + "\n"


def unhurried(block: str) -> str:
    """Stretch the time limits of a block within which something has to succeed."""
    limit = r"(\b(?:(?:acquire|check|close|connect)_)?timeout=|_after\()(\d+)\b(?!\.)"
    return re.sub(limit, lambda found: f"{found[1]}{10 * int(found[2])}", block)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def expected_output(block: str) -> list[str]:
    """Return what the comments of lines that print announce."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)


def ask_the_server(port: int) -> Callable[..., Awaitable[None]]:
    """Make a function that runs a server's program, asks it, resets, asks again, and cancels it."""

    async def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with create_task_group() as task_group:
            task_group.start_soon(main)
            client = None
            while client is None:
                try:
                    client = socket.create_connection(("127.0.0.1", port))
                except OSError:
                    await checkpoint()
            client.settimeout(60)
            client.sendall(b"hello\n")
            received = await to_thread.run_sync(client.recv, 100, abandon_on_cancel=True)
            assert received == b"> hello\n"
            client.sendall(b"half")
            reset(client)
            async with FramedStream(await connect_tcp("127.0.0.1", port)) as stream:
                assert await stream.send_receive_line(b"hello", timeout=60) == b"> hello"
            task_group.cancel_scope.cancel()

    return run


async def pass_a_checkpoint(delay: float) -> None:
    """Stand in for `anyio.sleep`."""
    await checkpoint()


@contextmanager
def receive_a_signal(*signals: signal.Signals) -> Generator[AsyncIterator[signal.Signals]]:
    """Stand in for `anyio.open_signal_receiver`."""
    with open_signal_receiver(*signals) as received:
        signal.raise_signal(signals[0])
        yield received


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def shelf_server() -> Generator[int]:
    """Run the server that a page writes a client for, in an event loop of its own."""
    with start_blocking_portal() as portal:
        listener = portal.call(partial(anyio.create_tcp_listener, local_host="127.0.0.1"))
        serving = portal.start_task_soon(listener.serve, Shelves().answer)
        yield listener.extra(SocketAttribute.local_port)
        serving.cancel()
        portal.call(listener.aclose)


class Stage:
    """Run blocks on one backend, with the servers that they talk to.

    :param backend: the backend
    :param ports: those of the servers, by the ports that the blocks name
    """

    def __init__(self, backend: Backend, ports: dict[int, int]) -> None:
        self.run: partial[Any] = partial(anyio.run, backend=backend[0], backend_options=backend[1])
        self.ports = {str(named): str(port) for named, port in ports.items()}

    def play(self, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(anyio, "sleep", pass_a_checkpoint)
        monkeypatch.setattr(anyio, "open_signal_receiver", receive_a_signal)
        if "create_tcp_listener" in block:
            port = free_port()
            monkeypatch.setattr(anyio, "run", partial(self.run, ask_the_server(port)))
            self.execute(block.replace("8999", str(port)), None)
            return
        with ExitStack() as stack:
            ports = dict(self.ports)
            if str(SHELVES_PORT) in block:
                ports[str(SHELVES_PORT)] = str(stack.enter_context(shelf_server()))
            # All at once: what takes the place of one may have the digits of another.
            block = re.sub("|".join(ports), lambda found: ports[found[0]], unhurried(block))
            if "Starlette(" in block:
                self.ask_the_application(block)
            elif re.search(r"\b(anyio|asyncio|trio)\.run\(", block):
                monkeypatch.setattr(anyio, "run", self.run)
                self.execute(block, None)
            else:
                self.run(self.play_fragment, block, int(self.ports[str(FRAGMENT_PORT)]))

    def ask_the_application(self, block: str) -> None:
        names: dict[str, Any] = {}
        exec(block, names)
        client: Any = TestClient(names["app"], **self.run.keywords)
        with client:
            assert client.get("/ask/hello").text == "> hello"
            for newline in ("%0A", "%0D", "%0D%0A"):
                assert client.get(f"/ask/hello{newline}DELETE").status_code == 400

    async def play_fragment(self, block: str, port: int) -> None:
        async with ConnectionPool(("127.0.0.1", port)) as pool:
            coroutine = self.execute(block, pool)
            if inspect.iscoroutine(coroutine):
                await coroutine

    @staticmethod
    def execute(block: str, pool: ConnectionPool | None) -> object:
        names: dict[str, Any] = {"__name__": "__main__", **FRAGMENT_NAMES, "pool": pool}
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if pool is not None else 0
        return eval(compile(block, "<block>", "exec", flags=flags), names)


@contextmanager
def logging_unchanged() -> Generator[None]:
    """Undo what a block does to the loggers."""
    root, package = logging.getLogger(), logging.getLogger("anyconnpool")
    handlers, level = root.handlers[:], package.level
    yield
    root.handlers[:] = handlers
    package.setLevel(level)


def test_every_page_has_its_blocks_found() -> None:
    """No page's examples are overlooked: each way of writing one is known to the tests."""
    for page in PAGES:
        markers = BLOCK_MARKER.findall(page.read_text("utf-8"))
        assert len(markers) == len(list(blocks_of(page))), page


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks_of(page))], ids=name_of)
def test_every_block_runs(
    page: Path,
    anyio_backend: Backend,
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each example works as it is written, on every backend, and prints what it says it prints."""
    ports, directory = servers
    monkeypatch.chdir(tmp_path)
    for path in certificates(directory):
        shutil.copy(path, tmp_path)
    for line, block in blocks_of(page):
        on_trio, on_uvloop = anyio_backend[0] == "trio", anyio_backend[1].get("use_uvloop")
        if (on_trio and ".open()" in block) or ((on_trio or on_uvloop) and "asyncio.run(" in block):
            continue
        if piece := PIECE.match(block):
            assert block[piece.end() :] in (ROOT / piece[1]).read_text("utf-8"), line
            continue
        with in_case(line), logging_unchanged(), monkeypatch.context() as patch:
            capsys.readouterr()
            Stage(anyio_backend, ports).play(block, patch)
            expected = expected_output(block)
            if expected:
                assert capsys.readouterr().out.splitlines() == expected


def test_every_page_says_what_starts_its_servers() -> None:
    """The command stands above the first block that connects to a port."""
    for page in PAGES:
        lines = page.read_text("utf-8").splitlines()
        for line, block in blocks_of(page):
            alone = re.search("create_tcp_listener|fixture", block) or PIECE.match(block)
            if PORT.search(block) and not alone:
                assert COMMAND.search("\n".join(lines[:line])), page
                break


def test_no_link_of_the_root_pages_is_dead() -> None:
    """What README and the pages beside it link to is there, or has a web address."""
    for page in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert target.startswith("https://") or (ROOT / target).exists(), (page, target)


@contextmanager
def program(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run Python for the length of the block."""
    command = [sys.executable, "-W", "error", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_the_first_minute_of_the_readme_goes_as_it_says(tmp_path: Path) -> None:
    """The server that its command starts makes its first program print what is shown."""
    text = (ROOT / "README.md").read_text("utf-8")
    (arguments,) = re.findall(r"^\.venv/bin/python (-m .*)$", text, re.MULTILINE)
    block = next(block for _, block in blocks_of(ROOT / "README.md"))
    (shown,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # The port of the README may be taken.
    with program(*arguments.split(), "--port", "0") as server:
        assert server.stdout is not None
        announced = re.search(r":(\d+),", server.stdout.readline())
        assert announced
        (tmp_path / "first.py").write_text(unhurried(block).replace("8999", announced[1]))
        with program(str(tmp_path / "first.py")) as client:
            assert client.communicate(timeout=90)[0] == shown
            assert client.returncode == 0


def test_the_states_are_drawn_as_the_code_has_them() -> None:
    """The drawing of a connection's states is what its program makes of the code's table."""
    program = runpy.run_path(str(DOCS / "draw_states.py"))
    assert program["DRAWING"].read_text("utf-8") == program["draw"]()
