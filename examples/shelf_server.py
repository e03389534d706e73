"""A small server to write a client for: it keeps texts on shelves.

Run ``python examples/shelf_server.py [port]``. The documentation's page "Write a client for your
protocol" leads to its client, ``shelf_client.py``. A message is an object in JSON, in a package
with four bytes of length. The server greets, wants a login, and answers each request with
``{"ok": …}`` or ``{"error": …}``. Between two replies it may send ``{"notice": …}`` at any time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from anyio.abc import ByteStream

from anyconnpool import FramedStream, PackageFormat

PACKAGES = PackageFormat(4, max_size=60_000)
# A client hangs up, or reads too slowly. An exception that leaves the server's function would end
# the server for all clients.
HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    TimeoutError,
)
# And this is what becomes of messages that are none.
NONSENSE = (ValueError, LookupError, TypeError)


class Client:
    """One client of the server: who it is, and which shelf it has chosen."""

    def __init__(self, stream: FramedStream) -> None:
        self.stream = stream
        self._sending = anyio.Lock()
        self.user = ""
        self.shelf = "main"

    async def receive(self) -> dict[str, Any]:
        """Receive the next request."""
        message: dict[str, Any] = json.loads(await self.stream.receive_package())
        return message

    async def send(self, **message: object) -> None:
        """Send a reply, or a notice; these come from the tasks of other clients."""
        with anyio.fail_after(5):
            async with self._sending:
                await self.stream.send_package(json.dumps(message).encode())


class Shelves:
    """What the clients of the server share."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.texts: dict[tuple[str, str], str] = {}

    async def answer(self, accepted: ByteStream) -> None:
        """Serve one client until it leaves."""
        async with FramedStream(accepted, package_format=PACKAGES) as stream:
            client = Client(stream)
            self.clients.add(client)
            try:
                await client.send(hello="shelves")
                while (request := await client.receive())["do"] != "bye":
                    await client.send(**await self.reply(client, **request))
            except (*HANG_UPS, *NONSENSE):
                pass
            finally:
                self.clients.discard(client)

    async def reply(self, client: Client, do: str, **given: str) -> dict[str, object]:
        """Do what a client wants, and return the reply."""
        place = (client.shelf, given.get("key", ""))
        match do:
            case "login" if given["password"] == "secret":
                client.user = given["user"]
                return {"ok": client.user}
            case _ if not client.user:
                return {"error": "log in first"}
            case "use":
                client.shelf = given["shelf"]
                return {"ok": None}
            case "put":
                self.texts[place] = given["text"]
                return {"ok": None}
            case "get" | "take" if place not in self.texts:
                return {"error": f"there is no {place[1]} on the shelf {place[0]}"}
            case "get":
                return {"ok": self.texts[place]}
            case "take":
                return {"ok": self.texts.pop(place)}
            case "announce":
                await self.announce(given["text"], client)
                return {"ok": None}
            case _:
                return {"error": "what?"}

    async def announce(self, text: str, but: Client | None = None) -> None:
        """Send a notice to all clients except one."""
        for client in self.clients - {but}:
            try:
                await client.send(notice=text)
            except HANG_UPS:
                # Half of the notice may be sent. This ends the client's own task as well.
                await anyio.aclose_forcefully(client.stream)


async def main(port: int) -> None:
    """Listen on the loopback interface and serve every client in a task of its own."""
    shelves = Shelves()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener:
        await listener.serve(shelves.answer)


if __name__ == "__main__":
    port = int(sys.argv[1]) if sys.argv[1:] else 9005
    try:
        anyio.run(main, port)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        # Those of clients come in a group: this is the port, which is in use as a rule.
        sys.exit(f"port {port}: {error}")
