"""The load, from the command line to the table, the JSON and the plot."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from anyconnpool.command import main
from tests.cases import table
from tests.sockets.servers import Peer, Server, echo_lines

from .programs import echo_server, finish, start

SHORT = ("--duration", "0.2", "--tasks", "4", "--connections", "1,2")


def test_a_sweep(backend: str) -> None:
    """In real processes, a sweep of each backend prints a table with a row for each size."""
    with echo_server("--backend", backend) as url:
        code, output, errors = finish(start("load", url, *SHORT, "--backend", backend))
    assert (code, errors) == (0, "")
    rows = re.findall(r"^ *(1|2|no pool) +\d+ .* 0 *$", output, re.MULTILINE)
    assert rows == ["1", "2", "no pool"]
    assert f"{url}, line of 64 bytes, 4 tasks, 0.2 s each, {backend}" in output
    assert "max_size=" in output
    assert "\x1b" not in output


def test_json_and_plots(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """--json writes JSON and nothing else; --plot writes SVG or PNG, as the name says."""
    svg, png = tmp_path / "sizes.svg", tmp_path / "sizes.png"
    assert main(["load", url, *SHORT, "--json", "--plot", str(svg)]) == 0
    output, errors = capfd.readouterr()
    assert not errors
    told = json.loads(output)
    assert told["remote"] == url
    assert [point["max_size"] for point in told["pooled"]] == [1, 2]
    assert told["unpooled"]["max_size"] is None
    assert all(point["answered"] > 0 for point in told["pooled"])
    assert not told["interrupted"]
    assert told["advice"]["text"]
    assert "<svg" in svg.read_text("utf-8")
    assert main(["load", url, *SHORT, "--no-unpooled", "--plot", str(png)]) == 0
    assert "no pool" not in capfd.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@table(
    "framing, payload",
    [
        (("--format", "package", "--header-size", "4"), ("--payload-size", "70000")),
        (("--format", "raw"), ("--payload", "a\nb")),
        (("--format", "line"), ("--payload-size", "0")),
    ],
)
def test_formats(
    framing: tuple[str, ...], payload: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Lines, packages and raw bytes can be sent, of any size that they allow."""
    with echo_server(*framing) as url:
        assert main(["load", url, *SHORT, *framing, *payload, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [point["errors"] for point in (*told["pooled"], told["unpooled"])] == [{}] * 3


@table("kind", ["tls13", "unix"])
def test_other_sockets(kind: str, tmp_path: Path, backend: str) -> None:
    """TLS and UNIX sockets can be measured, and connections are reused there too."""
    with Server(kind, tmp_path, echo_lines) as server:
        remote = server.remote
        where = f"unix://{remote}" if kind == "unix" else "tls://{}:{}".format(*remote)
        options = ["--insecure"] if server.tls else []
        process = start("load", where, *SHORT, *options, "--backend", backend, "--json")
        code, output, errors = finish(process)
    assert (code, errors) == (0, "")
    told = json.loads(output)
    assert [point["errors"] for point in (*told["pooled"], told["unpooled"])] == [{}] * 3
    assert all(point["reused_share"] > 0.9 for point in told["pooled"])


def test_failures_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If nothing is answered but the first request, the failures are listed; the code is 1."""

    def answer_the_first(peer: Peer) -> None:
        line = peer.receive_line()
        if len(server.peers) == 1:
            peer.send(line + b"\n")

    with Server("tcp", tmp_path, answer_the_first) as server:
        url = "tcp://{}:{}".format(*server.remote)
        assert main(["load", url, *SHORT]) == 1
    output, errors = capfd.readouterr()
    for point in ("max_size 1", "max_size 2", "without a pool"):
        assert re.search(rf"^{point}: \d+ failed: the ", output, re.MULTILINE)
    assert "No advice: requests failed at every size" in output
    assert re.fullmatch(r"anyconnpool: no request was answered: the [^\n]+\n", errors)


def test_refused(capfd: pytest.CaptureFixture[str], backend: str) -> None:
    """A port where nobody listens is told in one line, with code 1, and no JSON."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    remote = f"tcp://127.0.0.1:{port}"
    assert main(["load", remote, "--json", "--backend", backend]) == 1
    error = f"anyconnpool: {remote}: connection refused: nothing listens there\n"
    assert capfd.readouterr() == ("", error)


def test_a_plot_that_cannot_be_written(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plot that can't be written is told after the table, which is not lost."""
    (tmp_path / "sizes.svg").mkdir()
    assert main(["load", url, *SHORT, "--plot", str(tmp_path / "sizes.svg")]) == 1
    output, errors = capfd.readouterr()
    assert "requests/s" in output
    assert "is a directory" in errors.lower()
