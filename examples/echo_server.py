"""An echo server: it answers every message with "> " and the message.

Start it, then start `echo_client.py` in another terminal. With `--hang-up` it closes each
connection after one reply.
"""

import argparse
import sys
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import FramedStream

BACKENDS: dict[str, tuple[str, dict[str, bool]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


async def echo(hang_up: bool, accepted: SocketStream) -> None:
    """Answer one client until it closes its end, or only once."""
    async with FramedStream(accepted) as stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                message = await stream.receive_available()
                await stream.send(b"> " + message)
                if hang_up:
                    return


async def serve(port: int, hang_up: bool) -> None:
    """Listen on the loopback interface and serve every client in a task of its own."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener:
        print(f"listening on 127.0.0.1:{listener.extra(SocketAttribute.local_port)}", flush=True)
        await listener.serve(partial(echo, hang_up))


def main() -> None:
    """Read the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(description="Echo what clients send.")
    parser.add_argument("--port", type=int, default=8999, help="0: let the system choose one")
    parser.add_argument("--hang-up", action="store_true", help="close after one reply")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    arguments = parser.parse_args()
    backend, options = BACKENDS[arguments.backend]
    try:
        anyio.run(
            serve, arguments.port, arguments.hang_up, backend=backend, backend_options=options
        )
    except KeyboardInterrupt:
        pass
    except OSError as error:
        # Those of clients come in a group: this is the port, which is in use as a rule.
        sys.exit(f"port {arguments.port}: {error}")


if __name__ == "__main__":
    main()
