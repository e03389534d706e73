"""A pool whose figures Prometheus can read over HTTP.

``pip install ".[prometheus]"``, then run ``python examples/metrics_endpoint.py``. It asks
an echo server of its own a few times, reads its own metrics as Prometheus would, and prints some.
"""

from collections.abc import Generator
from contextlib import contextmanager
from urllib.request import urlopen

import anyio
from anyio.abc import SocketAttribute, SocketStream
from prometheus_client import CollectorRegistry, start_http_server

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.instrumentation.prometheus import PoolCollector

# A client hangs up, also in the middle of a line or by a reset, or sends a line that is too long.
# An exception that leaves the server's function would end the server for all clients.
HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
)


@contextmanager
def metrics_endpoint(registry: CollectorRegistry) -> Generator[str]:
    """Serve the metrics in a thread for the length of the block, and give their URL."""
    # A service takes a fixed port, the one in the configuration of Prometheus.
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_metrics(url: str) -> list[str]:
    """Return the lines that are neither comments nor buckets of histograms."""
    with urlopen(url) as reply:
        lines = reply.read().decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_bucket{" not in line]


async def echo(accepted: SocketStream) -> None:
    """Answer one client's lines, until it hangs up."""
    async with FramedStream(accepted) as stream:
        try:
            while True:
                await stream.send_line(b"> " + await stream.receive_line())
        except HANG_UPS:
            pass


async def work(pool: ConnectionPool) -> None:
    """Do what a service would: many tasks ask at once, over few connections."""
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(pool.send_receive_line, b"request %d" % number)


async def main() -> None:
    """Start the server and the endpoint, work, and look at the metrics."""
    registry = CollectorRegistry()  # or prometheus_client.REGISTRY, which all can use
    collector = PoolCollector(registry)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, echo)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        with metrics_endpoint(registry) as url:
            async with ConnectionPool(
                address, name="echo", max_size=4, observers=[collector]
            ) as pool:
                await work(pool)
                for line in await anyio.to_thread.run_sync(read_metrics, url):
                    if "connections" in line or "acquired_total" in line:
                        print(line)
        server.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
