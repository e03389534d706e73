"""A load on several servers: how it is spread, and what is told of one that dies and returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anyio import ConnectionFailed, create_task_group, to_thread

from anyconnpool import PackageFormat, PoolStatistics, ReplicaState
from anyconnpool.command import main
from anyconnpool.command._advice import Advice
from anyconnpool.command._framing import Framing
from anyconnpool.command._measure import Meter, Requests
from anyconnpool.command._pace import Extent
from anyconnpool.command._payload import Payload
from anyconnpool.command._results import Point, Report, Rest, Share
from anyconnpool.command._screen import LiveProgress, share_cells, show_report
from anyconnpool.command._spread import Spread
from anyconnpool.command._sweep import Plan, measure
from anyconnpool.command._target import Service, Target
from anyconnpool.events import ReplicaBack, ReplicaResting
from tests.cases import table
from tests.sockets.servers import Server, echo_lines

from .programs import finish, start
from .test_results import point

SHORT = ("--requests", "60", "--tasks", "6", "--connections", "4")
PING = Payload([b"ping"])
LINES = Framing("line", PackageFormat())
REFUSED = "connection refused: nothing listens there"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Serve lines at two ports."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with (
        Server("tcp", tmp_path / "first", echo_lines) as first,
        Server("tcp", tmp_path / "second", echo_lines) as second,
    ):
        yield [first, second]


@pytest.fixture
def urls(servers: list[Server]) -> list[str]:
    """Return the URLs of the servers."""
    return ["tcp://{}:{}".format(*server.remote) for server in servers]


def told_by(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(capfd.readouterr().out)
    return told


def answered(point: dict[str, Any]) -> list[int]:
    return [share["answered"] for share in point["servers"]]


@table(
    "options",
    [
        (),
        ("--pipeline", "4"),
        ("--pipeline", "4", "--format", "raw"),
        ("--rate", "500"),
        ("--payload", "{n} {digits:3}", "--template"),
        ("--warm-up", "0.05"),
        ("--backend", "trio"),
        ("--backend", "uvloop"),
    ],
)
def test_both_have_the_same(
    options: tuple[str, ...], urls: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each server has half of the connections, and part of the requests; in sum, all of them."""
    if "raw" in options:
        options = (*options, "--payload", "ping\n", "--reply-bytes", "7")
    assert main(["load", *urls, *SHORT, *options, "--json"]) == 0
    told = told_by(capfd)
    assert told["remote"] == ",".join(urls)
    assert told["servers"] == urls
    assert told["order"] == "balanced"
    (pooled,) = told["pooled"]
    for one in (pooled, told["unpooled"]):
        assert [share["remote"] for share in one["servers"]] == urls
        assert sum(answered(one)) == one["answered"] == 60
        # One request after the other may all go to one server.
        assert all(answered(one)) or "--rate" in options
        assert not any(share["errors"] or share["rests"] for share in one["servers"])
    assert [share["connections"] for share in pooled["servers"]] == [2, 2]
    assert [share["connections"] for share in told["unpooled"]["servers"]] == [None, None]


def test_in_order_the_first_has_all(urls: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The second one is a stand-by, of which nothing is asked."""
    options = [*SHORT, "--order", "in-order"]
    assert main(["load", *urls, *options, "--json"]) == 0
    told = told_by(capfd)
    assert told["order"] == "in_order"
    for one in (*told["pooled"], told["unpooled"]):
        assert answered(one) == [60, 0]
    assert main(["load", *urls, *options]) == 0
    assert f"{','.join(urls)}, in order, line of" in " ".join(capfd.readouterr().out.split())


def test_tls_and_unix_sockets(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The options of TLS hold for each server; a port and a path may be servers of one service."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        Server("tls13", tmp_path / "one", echo_lines) as one,
        Server("tls13", tmp_path / "other", echo_lines) as other,
    ):
        urls = ["tls://{}:{}".format(*server.remote) for server in (one, other)]
        assert main(["load", *urls, *SHORT, "--insecure", "--json"]) == 0
        (pooled,) = told_by(capfd)["pooled"]
        assert all(answered(pooled))
        assert main(["load", *urls, *SHORT]) == 1
        assert f"{urls[0]}: TLS: the server's certificate is not trusted" in capfd.readouterr().err
    with (
        Server("tcp", tmp_path / "one", echo_lines) as one,
        Server("unix", tmp_path / "other", echo_lines) as other,
    ):
        urls = ["tcp://{}:{}".format(*one.remote), f"unix://{other.remote}"]
        assert main(["load", *urls, *SHORT, "--json"]) == 0
        told = told_by(capfd)
        assert all(answered(told["pooled"][0]))
        assert all(answered(told["unpooled"]))


def test_the_table_of_servers(
    urls: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second table has a row for each size and server; options may stand between the URLs."""
    monkeypatch.delenv("COLUMNS", raising=False)
    first, second = urls
    assert main(["load", first, "--tasks", "6", second, "--requests", "60"]) == 0
    output, errors = capfd.readouterr()
    assert not errors
    rows = re.findall(
        r"^ *(\d+|no pool|) +(tcp://\S+) +(\d+) +(\d+%) +0 +(\d+|-) +(0|-) *$", output, re.M
    )
    assert [(size, name) for size, name, *_ in rows] == [
        (size, name)
        for sizes in (("1", ""), ("2", ""), ("4", ""), ("8", ""), ("16", ""), ("no pool", ""))
        for size, name in zip(sizes, urls, strict=True)
    ]
    assert sum(int(requests) for _, _, requests, *_ in rows) == 6 * 60


def plan_for(servers: list[Server], size: int) -> Plan:
    """Make a plan that goes on until it is cancelled."""
    return Plan(
        target=Service([Target(server.remote, None) for server in servers]),
        requests=Requests(LINES, PING, 60),
        timeout=60,
        sizes=(size,),
        tasks=8,
        extent=Extent(600.0),
        warm_up=0,
        unpooled=False,
    )


async def test_one_that_dies_and_returns_is_told_of(
    urls: list[str], servers: list[Server], capfd: pytest.CaptureFixture[str]
) -> None:
    """When it rested and why, and that the other one never did."""
    report = Report()

    class KillAndStart:
        """Take a server away when it has answered, and end when it has answered anew."""

        state = "begun"
        answered = 0

        def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
            assert meter.spread is not None
            share = meter.spread.shares()[0]
            if self.state == "begun" and share.answered:
                self.state = "killing"
                tasks.start_soon(self.do, servers[0].stop, "dead")
            elif self.state == "dead" and share.rests:
                self.state, self.answered = "starting", share.answered
                tasks.start_soon(self.do, servers[0].start, "alive")
            elif self.state == "alive" and share.answered > self.answered and share.rests[-1].ended:
                tasks.cancel_scope.cancel()

        async def do(self, what: Callable[[], object], state: str) -> None:
            await to_thread.run_sync(what)
            self.state = state

    async with create_task_group() as tasks:
        await measure(plan_for(servers, 4), report, KillAndStart())
    (measured,) = report.pooled
    first, second = measured.shares[:2]
    rest = first.rests[0]
    assert rest.ended is not None
    assert 0 < rest.began < rest.ended <= measured.elapsed
    # Refused, as a rule, or it was accepted and cut in the moment of its death.
    assert rest.error
    assert not second.rests
    assert not second.errors
    show_report("title", report, Advice(None, "advice"), since="asking", histogram=False)
    assert (
        f"max_size 4: {urls[0]} rested from {rest.began:.1f} s on ({rest.error}) and was back at "
        f"{rest.ended:.1f} s"
    ) in " ".join(capfd.readouterr().out.split())


async def test_requests_that_no_server_has_had(
    servers: list[Server], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all are dead, the failures have a row of their own."""
    monkeypatch.delenv("COLUMNS", raising=False)
    report = Report()

    async def stop(server: Server) -> None:
        await to_thread.run_sync(server.stop)

    class KillBoth:
        killed = False

        def look(self, size: int | None, meter: Meter, statistics: PoolStatistics | None) -> None:
            assert meter.spread is not None
            shares = meter.spread.shares()
            if not self.killed and all(share.answered for share in shares):
                self.killed = True
                for server in servers:
                    tasks.start_soon(stop, server)
            *known, last = shares
            refused = last.remote is None and REFUSED in last.errors
            if refused and all(share.rests for share in known):
                tasks.cancel_scope.cancel()

    async with create_task_group() as tasks:
        await measure(plan_for(servers, 2), report, KillBoth())
    (measured,) = report.pooled
    *known, nobody = measured.shares
    assert nobody.remote is None
    assert REFUSED in nobody.errors
    assert sum(share.failed for share in measured.shares) == measured.failed
    assert sum(share.answered for share in measured.shares) == measured.answered
    assert all(share.rests[-1].ended is None for share in known)
    show_report("title", report, Advice(None, "advice"), since="asking", histogram=False)
    output = capfd.readouterr().out
    assert re.search(rf"^ +\(not known\) +0 +0% +{nobody.failed} +- +- *$", output, re.M)
    assert "and was not back at the end" in " ".join(output.split())


def test_one_that_is_dead_from_the_start_ends_it(
    urls: list[str], servers: list[Server], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each server is asked once beforehand; the line names the one that doesn't answer."""
    servers[1].stop()
    assert main(["load", *urls, *SHORT]) == 1
    output, errors = capfd.readouterr()
    assert not output
    assert errors == f"anyconnpool: {urls[1]}: connection refused: nothing listens there\n"


def shared(size: int | None, first: str = "tcp://127.0.0.1:9001") -> Point:
    """Return a point with the shares of two servers."""
    pooled = size is not None
    rests = [Rest(1.0, 2.5, REFUSED)] * 7
    shares = (
        Share(first, 123_456, {}, 4 if pooled else None, rests if pooled else ()),
        Share("tcp://127.0.0.1:9002", 123_457, {"x": 2}, 4 if pooled else None, ()),
        Share(None, 0, {"x": 3}, None, ()),
    )
    return replace(point(size, 1000, answered=246_913), shares=shares)


@table("width", range(15, 125))
def test_columns_go_digits_stay(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the width, the servers' names and what failed are there, whole."""
    monkeypatch.setenv("COLUMNS", str(width))
    report = Report([shared(8)], shared(None))
    show_report("title", report, Advice(None, "advice"), since="asking", histogram=False)
    output = capsys.readouterr().out
    assert "…" not in output
    (heading,) = re.findall(r"^ *max_size +server .*$", output, re.MULTILINE)
    columns = heading.split()
    assert {*columns} >= {"max_size", "server", "requests", "errors"}
    rows = [line for line in output.splitlines() if re.search(r"^ *(8|no pool|) +(tcp:|\(n)", line)]
    assert len(rows) == 6
    for row, share in zip(rows, [*report.points[0].shares, *report.points[1].shares], strict=True):
        values = share_cells(share, 246_913)
        assert " ".join(row.split()).endswith(
            " ".join(values[name] for name in columns if name != "max_size")
        )
    left_out = {"share", "connections", "rests"} - {*columns}
    names = re.findall(r"narrow: ([^(]*) \(see --json\)", " ".join(output.split()))
    assert not left_out or {*names[-1].split(", ")} == left_out


def test_rests_that_are_many(capsys: pytest.CaptureFixture[str]) -> None:
    """The first ones are told one by one."""
    show_report("title", Report([shared(8)]), Advice(None, "x"), since="asking", histogram=False)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count("max_size 8: tcp://127.0.0.1:9001 rested from 1.0 s on (") == 5
    assert "max_size 8: tcp://127.0.0.1:9001 rested 2 more times" in output


def test_a_name_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """An IPv6 address has brackets, and so may a path."""
    report = Report([shared(8, "unix:///[bold]x[/bold]")])
    show_report("title", report, Advice(None, "x"), since="asking", histogram=False)
    assert "unix:///[bold]x[/bold]" in capsys.readouterr().out


@table("width", [25, 34, 45, 60, 79, 85, 95, 120])
def test_live_lines(
    width: int,
    urls: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal that is wide enough each server has a line; nothing in it is cut off."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["load", *urls, "--requests", "20", "--connections", "1,2"]) == 0
    errors = capfd.readouterr().err
    assert "max_size 2" in errors
    assert "…" not in errors
    assert all((url in errors) == (width >= len(url) + 12) for url in urls)
    assert (" connections" in errors) == (width >= 80 + len(urls[0]) + 2 - 16)


def test_in_a_process_of_its_own(urls: list[str], backend: str) -> None:
    """As users call it; nothing is written to standard error if that is no terminal."""
    code, output, errors = finish(start("load", *urls, *SHORT, "--backend", backend))
    assert (code, errors) == (0, "")
    assert "server" in output


def test_live_lines_say_who_rests(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first failure to the first reply after it, however often the rest is prolonged."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    remote, name = ("127.0.0.1", 9001), "tcp://127.0.0.1:9001"
    spread = Spread({remote: name})
    spread.watch(lambda: {remote: ReplicaState(True, 1, None, 3, 2)})
    meter = Meter(Extent(600.0), spread)
    shown: list[bool] = []
    with LiveProgress([name]) as progress:
        for event in (
            None,
            ReplicaResting("pool", remote, ConnectionFailed(f"{name} hung up at once"), 1.0),
            ReplicaResting("pool", remote, ConnectionFailed("another"), 2.0),
            ReplicaBack("pool", remote, 3.0),
        ):
            if event is not None:
                spread.observe(event)
            progress.look(4, meter, PoolStatistics("pool", 4))
            shown.append(f"{name}" in (line := capfd.readouterr().err) and "rests" in line)
            assert "3 connections" in line
    assert shown == [False, True, True, False]
    (rest,) = spread.shares()[0].rests
    assert rest.error == "hung up at once"


def test_a_rest_that_lasts_when_it_begins_counts_from_then() -> None:
    """What was over before is nothing of the measurement's."""
    remotes = [("127.0.0.1", port) for port in (9001, 9002)]
    spread = Spread({remote: str(remote) for remote in remotes})
    for remote in remotes:
        spread.observe(ReplicaResting("pool", remote, ConnectionRefusedError(), 1.0))
    spread.observe(ReplicaBack("pool", remotes[0], 1.0))
    Meter(Extent(600.0), spread)
    assert [list(share.rests) for share in spread.shares()] == [[], [Rest(0.0, None, REFUSED)]]
