"""Draw the dashboard from a real Prometheus: ``python docs/draw_dashboard.py``, in two minutes.

Three pools work against a server that becomes slow, and then is down for a while; one of them has a
second server that is always well. Prometheus (the
program ``prometheus``, as of Debian's package) reads their metrics. What it answers to the queries
in ``examples/grafana_dashboard.json`` is drawn with Matplotlib, where the panels stand in the
dashboard. It is not Grafana that draws: the curves are true, the style isn't Grafana's.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import anyio
from anyio.abc import SocketStream
from prometheus_client import CollectorRegistry, start_http_server

from anyconnpool import ConnectionPool, ExchangeError, FramedStream, PooledConnection, Replicas
from anyconnpool.instrumentation.prometheus import PoolCollector

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "examples" / "grafana_dashboard.json"
PICTURE = Path(__file__).parent / "how-to" / "dashboard.png"

#: how long it works, and from when until when the server is slow and is down, in seconds
DURATION, SLOW, DOWN = 120, (30, 50), (70, 90)
#: Grafana makes four times the interval of Prometheus of it
RATE_INTERVAL = "4s"
PANEL_WIDTH, PANEL_HEIGHT = 0.6, 0.3  # of one step of the dashboard's grid, in inches


class EchoServer:
    """Answer lines in some milliseconds, from a port that stays the same."""

    def __init__(self) -> None:
        self.delay = 0.005
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port: int = unused.getsockname()[1]

    async def answer(self, accepted: SocketStream) -> None:
        """Answer one client until it hangs up."""
        async with FramedStream(accepted) as stream:
            with suppress(*ExchangeError):
                while True:
                    line = await stream.receive_line()
                    await anyio.sleep(self.delay)
                    await stream.send_line(line)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Listen for the length of the block; its end cuts all connections."""
        async with (
            await anyio.create_tcp_listener(
                local_host="127.0.0.1", local_port=self.port, reuse_port=True
            ) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, self.answer)
            yield
            tasks.cancel_scope.cancel()


async def reset(connection: PooledConnection) -> None:
    """Ask the server to forget what it knows, as an ``on_release`` hook does."""
    await connection.send_receive_line(b"RESET")


async def work(pool: ConnectionPool, pause: float) -> None:
    """Ask again and again, whatever goes wrong."""
    while True:
        with suppress(*ExchangeError, TimeoutError):
            await pool.send_receive_line(b"hello", timeout=0.3)
        await anyio.sleep(pause)


async def keep(server: EchoServer) -> None:
    """Run the server, with its bad times."""
    async with server.run():
        await anyio.sleep(SLOW[0])
        server.delay = 0.04
        await anyio.sleep(SLOW[1] - SLOW[0])
        server.delay = 0.005
        await anyio.sleep(DOWN[0] - SLOW[1])
    await anyio.sleep(DOWN[1] - DOWN[0])
    async with server.run():
        await anyio.sleep_forever()


async def live(registry: CollectorRegistry) -> None:
    """Let three pools work: one is often full, one has little to do, and one has two servers."""
    server, spare, observers = EchoServer(), EchoServer(), [PoolCollector(registry)]
    remotes = [("127.0.0.1", one.port) for one in (server, spare)]
    make_pool = partial(ConnectionPool, remotes[0], observers=observers, fail_fast_after=4)
    async with anyio.create_task_group() as tasks, spare.run():
        tasks.start_soon(keep, server)
        await anyio.sleep(1)
        async with (
            ConnectionPool(
                Replicas(remotes), name="search", max_size=6, pipeline=4, observers=observers
            ) as search,
            make_pool(name="orders", max_size=8, max_waiting=20, on_release=reset) as orders,
            make_pool(
                name="stock", max_size=4, max_lifetime=20, check=reset, check_after=0.3
            ) as stock,
        ):
            for number in range(24):
                tasks.start_soon(work, orders, 0.05 + 0.002 * number)
            for _ in range(2):
                tasks.start_soon(work, stock, 0.5)
            for number in range(8):
                tasks.start_soon(work, search, 0.05 + 0.002 * number)
            await anyio.sleep(DURATION)
            tasks.cancel_scope.cancel()


@contextmanager
def prometheus(target: int) -> Generator[str]:
    """Run Prometheus for the length of the block, and give its URL.

    :param target: the port that it reads metrics from, each second
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with TemporaryDirectory() as directory:
        configuration = Path(directory) / "prometheus.yml"
        scrape = {"job_name": "demo", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        everything = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
        configuration.write_text(json.dumps(everything))  # which is YAML, too
        command = [
            *("prometheus", f"--config.file={configuration}", "--log.level=error"),
            *(f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"),
        ]
        with subprocess.Popen(command) as process:
            try:
                yield f"http://{address}"
            finally:
                process.terminate()


def ask(url: str, **arguments: object) -> Any:
    """Ask Prometheus, which answers with what it has found or with why it can't."""
    with urlopen(f"{url}?{urlencode(arguments)}") as reply:
        return json.load(reply)["data"]["result"]


def query(url: str, target: dict[str, str], began: float) -> dict[str, tuple[list[float], ...]]:
    """Return what one query of a panel finds, by the legends that Grafana would show."""
    expression = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$pool", ".*")
    found = {}
    for series in ask(
        f"{url}/api/v1/query_range", query=expression, start=began, end=began + DURATION, step=1
    ):
        labels = series["metric"]
        legend = re.sub(
            r"{{(\w+)}}", lambda match, labels=labels: labels[match[1]], target["legendFormat"]
        )
        found[legend] = fill_gaps({round(at - began): value for at, value in series["values"]})
    return found


def fill_gaps(values: dict[int, str]) -> tuple[list[float], ...]:
    """Return times and values; where there is none, the line is to be interrupted."""
    times = [float(at) for at in range(min(values), max(values) + 1)]
    return times, [float(values.get(int(at), "nan")) for at in times]


def draw(url: str, began: float) -> None:
    """Draw all panels where they stand in the dashboard."""
    from matplotlib.figure import Figure

    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * PANEL_WIDTH, rows * PANEL_HEIGHT), layout="none")
    for panel in panels:
        place, defaults = panel["gridPos"], panel["fieldConfig"]["defaults"]
        axes = figure.add_axes(
            (
                (place["x"] + 0.9) / 24,
                1 - (place["y"] + place["h"] - 2.6) / rows,
                (place["w"] - 1.2) / 24,
                (place["h"] - 3.6) / rows,
            )
        )
        series: dict[str, tuple[list[float], ...]] = {}
        for target in panel["targets"]:
            series |= query(url, target, began)
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        if stacked and series:
            # Each value by its time, since a series may begin later than another.
            columns = [dict(zip(*one, strict=True)) for one in series.values()]
            times = sorted(set().union(*columns))
            heights = [[column.get(at, 0) for at in times] for column in columns]
            axes.stackplot(times, heights, labels=[*series], alpha=0.7)
        else:
            for legend, (times, values) in series.items():
                axes.plot(times, values, linewidth=1, label=legend)
        for begin, end in SLOW, DOWN:
            axes.axvspan(begin, end, color="0.93", zorder=0)
        axes.set_title(panel["title"], fontsize=9, loc="left")
        axes.set_xlim(0, DURATION)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        if defaults["unit"] == "percentunit":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if defaults["unit"] == "s":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.12),
            ncols=4,
            fontsize=6,
            frameon=False,
            columnspacing=1,
            handlelength=1,
        )
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Work, have it watched, and draw what was seen."""
    registry = CollectorRegistry()
    endpoint, _ = start_http_server(0, "127.0.0.1", registry)
    with prometheus(endpoint.server_port) as url:
        began = time.time()  # noqa: TID251 (Prometheus reckons in the time of day)
        anyio.run(live, registry)
        draw(url, began)


if __name__ == "__main__":
    main()
