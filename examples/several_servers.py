"""Three servers of one service behind one pool: one is stopped, and nobody notices.

Run ``python examples/several_servers.py``. The servers are part of it.
"""

from collections import Counter
from functools import partial

import anyio
from anyio import CancelScope
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from anyconnpool import ConnectionPool, FramedStream, Replicas, Retry

# A client hangs up, also in the middle of a line or by a reset, or sends a line that is too long.
# An exception that leaves the server's function would end the server for all clients.
HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
)


async def answer(name: str, accepted: SocketStream) -> None:
    """Answer each line with the name of the server, until the client hangs up."""
    async with FramedStream(accepted) as stream:
        try:
            while True:
                await stream.receive_line()
                await stream.send_line(name.encode())
        except HANG_UPS:
            pass


async def serve(name: str, *, task_status: TaskStatus[tuple[CancelScope, int]]) -> None:
    """Serve at a free port until the scope is cancelled that is handed to the starter."""
    with CancelScope() as scope:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started((scope, listener.extra(SocketAttribute.local_port)))
            await listener.serve(partial(answer, name))


async def ask(pool: ConnectionPool, answers: Counter[str]) -> None:
    """Ask twenty times; what a server leaves unanswered may be asked again, elsewhere."""
    for _ in range(20):
        reply = await pool.send_receive_line(b"who are you?", timeout=5, retry=Retry(2))
        answers[reply.decode()] += 1


async def ask_all(pool: ConnectionPool) -> Counter[str]:
    """Ask by thirty tasks at once."""
    answers: Counter[str] = Counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(ask, pool, answers)
    return answers


async def main() -> None:
    """Start the servers, ask them, stop one of them, and ask again."""
    async with anyio.create_task_group() as servers:
        started = [await servers.start(serve, name) for name in ("amber", "beryl", "coral")]
        replicas = Replicas([("127.0.0.1", port) for _, port in started])
        async with ConnectionPool(replicas, max_size=9, connect_timeout=5) as pool:
            answers = await ask_all(pool)
            print("answers:", sum(answers.values()), "from", ", ".join(sorted(answers)))
            stopped, _ = started[0]
            stopped.cancel()
            answers = await ask_all(pool)
            print("answers without amber:", sum(answers.values()) > answers["amber"])
            print("unanswered:", 600 - sum(answers.values()))
        servers.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
