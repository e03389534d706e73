"""The load, from the command line to the table, the JSON and the plot."""

from __future__ import annotations

import json
import re
import socket
import threading
from itertools import count
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
    assert "bytes/s" in output, "a pipe has room for every column"
    assert rows == ["1", "2", "no pool"]
    assert f"{url}, line of 64 bytes, 4 tasks, 0.2 s each, {backend}" in output
    assert "max_size=" in output
    assert "\x1b" not in output


def test_a_sweep_of_shared_connections(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """--pipeline has requests share connections, and the title says so."""
    assert main(["load", url, *SHORT, "--pipeline", "4"]) == 0
    assert "pipeline 4" in " ".join(capfd.readouterr().out.split())
    assert main(["load", url, *SHORT, "--pipeline", "4", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["pipeline"] == 4
    assert all(point["answered"] > 0 and not point["errors"] for point in told["pooled"])


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


def test_some_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If some requests failed, everything is shown as ever, and the code is 1."""
    asked = count()

    def hang_up_now_and_then(peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            if next(asked) % 5 == 4:
                return
            peer.send(line + b"\n")

    with Server("tcp", tmp_path, hang_up_now_and_then) as server:
        url = "tcp://{}:{}".format(*server.remote)
        options = ["--requests", "10", "--tasks", "1", "--connections", "1", "--no-unpooled"]
        # A request that is the first one of its connection is not repeated.
        assert main(["load", url, *options, "--json"]) == 1
    output, errors = capfd.readouterr()
    told = json.loads(output)["pooled"][0]
    assert told["answered"] > 0
    assert sum(told["errors"].values()) + told["answered"] == 10
    assert re.fullmatch(r"anyconnpool: \d of 10 requests failed, most of them: [^\n]+\n", errors)


@table(
    "limit, code, text",
    [
        ("p50=1e-9", 1, r"--fail-above: p50 is [\d.e-]+ s with max_size 2, above 1e-09 s"),
        ("p50=3000,p99.9=1e-9", 1, r"--fail-above: p99\.9 is [\d.e-]+ s with max_size 2, above .*"),
        ("p50=3000,max=3000", 0, None),
    ],
)
def test_limits_of_latencies(
    limit: str, code: int, text: str | None, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A latency that exceeds its limit makes the code 1, after everything was shown."""
    options = ["--requests", "5", "--connections", "2", "--fail-above", limit]
    assert main(["load", url, *options]) == code
    output, errors = capfd.readouterr()
    assert "requests/s" in output
    assert re.fullmatch(f"anyconnpool: {text}\n" if text else "", errors)


def test_histogram(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """--histogram shows bars for each measurement, which hold all requests."""
    options = ["--requests", "20", "--connections", "1,2", "--histogram"]
    assert main(["load", url, *options]) == 0
    output = capfd.readouterr().out
    assert re.findall(r"^latencies (.*), in milliseconds:$", output, re.MULTILINE) == [
        "max_size 1",
        "max_size 2",
        "without a pool",
    ]
    counts = re.findall(r"^ *[\d.]+ to +[\d.]+ +(\d+) +[\d.]+%(?: #+)?$", output, re.MULTILINE)
    assert sum(map(int, counts)) == 3 * 20


def test_a_rate(url: str, capfd: pytest.CaptureFixture[str], backend: str) -> None:
    """At a rate, so many requests are made in the time, and the title says so."""
    options = ["--rate", "100", "--connections", "2", "--backend", backend]
    assert main(["load", url, *options, "--requests", "10", "--no-unpooled"]) == 0
    output = capfd.readouterr().out
    assert "100 requests/s, 32 tasks" in output
    assert "p50 to max: milliseconds from when a request was due" in output
    assert main(["load", url, *options, "--duration", "0.3", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["rate_per_second"] == 100
    for point in (*told["pooled"], told["unpooled"]):
        assert point["answered"] + point["missed"] == 30


def test_a_rate_that_is_too_much(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a server can't keep up, the latencies grow, and what was missed is told."""
    gate = threading.Event()

    def answer_slowly(peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            gate.wait(0.02)
            peer.send(line + b"\n")

    with Server("tcp", tmp_path, answer_slowly) as server:
        url = "tcp://{}:{}".format(*server.remote)
        options = ["--rate", "1000", "--duration", "0.3", "--connections", "1", "--tasks", "2"]
        assert main(["load", url, *options, "--no-unpooled"]) == 0
    output = capfd.readouterr().out
    assert re.search(r"^max_size 1: the rate was not reached: \d+ requests were due", output, re.M)
    assert "No advice" in output


def test_templates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The fields of a template are filled in for each request, from wherever it comes."""
    seen: list[bytes] = []

    def note(peer: Peer) -> None:
        while True:
            seen.append(peer.receive_line())
            peer.send(b"ok\n")

    path = tmp_path / "payload"
    path.write_bytes(b"GET \xff{n:03}\n")
    short = ("--requests", "3", "--tasks", "1", "--connections", "1", "--no-unpooled")
    with Server("tcp", tmp_path, note) as server:
        url = "tcp://{}:{}".format(*server.remote)
        for source in (["--payload", "GET {n}"], ["--payload-file", str(path)]):
            assert main(["load", url, *short, *source, "--template", "--json"]) == 0
        assert main(["load", url, *short, "--payload-hex", "47 4554", "--json"]) == 0
        assert main(["load", url, *short, "--payload", "{n}", "--json"]) == 0
    numbers = range(4)
    assert seen == [
        *(b"GET %d" % number for number in numbers),
        *(b"GET \xff%03d" % number for number in numbers),
        *[b"GET"] * 4,
        *[b"{n}"] * 4,
    ]
    output = capfd.readouterr().out
    assert output.count('"payload_bytes": null') == 1
    assert '"payload_bytes": 8' in output


def test_a_raw_reply_is_as_long_as_its_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where messages differ in length, each reply is waited for until it is as long as its own."""
    gate = threading.Event()

    def answer_in_parts(peer: Peer) -> None:
        while message := peer.socket.recv(1000):
            peer.send(message[:1])
            # Longer than any silence that is taken for the end of a reply.
            gate.wait(0.02)
            peer.send(message[1:])

    with Server("tcp", tmp_path, answer_in_parts) as server:
        url = "tcp://{}:{}".format(*server.remote)
        raw = ["--format", "raw", "--payload", "n{n}", "--template", "--requests", "12", "--json"]
        assert main(["load", url, *raw, "--connections", "1", "--tasks", "1", "--no-unpooled"]) == 0
    (point,) = json.loads(capfd.readouterr().out)["pooled"]
    assert point["errors"] == {}
    assert point["reused_share"] == 1
    sent, received = point["bytes_per_second"].values()
    assert sent == received


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
