"""Use a pool where a platform lacks something; a program of its own, for a fresh import.

``elsewhere PLATFORM NAME…`` hides the names, such as ``select.poll``, from the package, and says
what ``sys.platform`` is while it is imported. On each event loop it prints what it has met.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from threading import Thread
from types import ModuleType

import anyio
from anyio import ConnectionFailed, TCPConnectable

#: modules that need what may be missing from an environment, or from such a platform
NEED_EXTRAS = ("anyconnpool.command.", "anyconnpool.instrumentation.")
LOOPS = {"asyncio": {}, "asyncio+uvloop": {"use_uvloop": True}, "trio": {}}


class ForeignConnectable(TCPConnectable):
    """What the pool doesn't take for an address, so that it has to look at a stream of AnyIO's."""


@contextmanager
def hidden(names: list[str]) -> Generator[None]:
    """Hide names of modules. Event loops need them too: so not before one runs."""
    taken: list[tuple[ModuleType, str, object]] = []
    for name in names:
        where, _, attribute = name.partition(".")
        module = importlib.import_module(where)
        if hasattr(module, attribute):
            taken.append((module, attribute, getattr(module, attribute)))
            delattr(module, attribute)
    try:
        yield
    finally:
        for owner, attribute, value in taken:
            setattr(owner, attribute, value)


def import_all(platform: str) -> None:
    """Import every module of the package, as on a platform."""
    here, sys.platform = sys.platform, platform
    try:
        package = importlib.import_module("anyconnpool")
        for module in pkgutil.walk_packages(package.__path__, "anyconnpool."):
            if not module.name.endswith("__main__"):
                optional = module.name.startswith(NEED_EXTRAS)
                with suppress(ImportError) if optional else nullcontext():
                    importlib.import_module(module.name)
    finally:
        sys.platform = here


def answer_once(listener: socket.socket, peers: list[socket.socket]) -> None:
    """Answer one line on each connection, and leave it open."""
    with suppress(OSError):
        while True:
            peer = listener.accept()[0]
            peers.append(peer)
            peer.sendall(b"> " + peer.recv(100))


async def meet(loop: str, port: int, peers: list[socket.socket]) -> None:
    """Do an exchange, and try to borrow what has died or has unread bytes, on both streams."""
    from anyconnpool import ConnectionPool, PoolFull

    for remote in (("127.0.0.1", port), ForeignConnectable("127.0.0.1", port)):
        async with ConnectionPool(remote) as pool:
            for harm in ("hang up", "speak"):
                assert await pool.send_receive_line(b"hello", timeout=20) == b"> hello"
                async with pool.acquire() as connection:
                    assert connection.reused
                if harm == "speak":
                    peers[-1].sendall(b"unasked")
                else:
                    peers[-1].shutdown(socket.SHUT_RDWR)
                # The event loop has had no turn in which to hear of it.
                with suppress(PoolFull):
                    pool.acquire_nowait()
                    raise AssertionError(f"borrowed after: {harm}")
        print(f"{loop}: {dict(pool.statistics().closed)}")
    try:
        async with ConnectionPool("/nowhere/at.all") as pool:
            await pool.send_receive_line(b"hello")
    except ConnectionFailed as error:
        print(f"{loop}: {error}")


async def main(loop: str, platform: str, names: list[str]) -> None:
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, hidden(names):
        import_all(platform)
        Thread(target=answer_once, args=(listener, peers), daemon=True).start()
        await meet(loop, listener.getsockname()[1], peers)
        listener.shutdown(socket.SHUT_RDWR)
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    # It needs the names, too, and asks for the platform.
    importlib.import_module("trio.testing")
    # That nobody listens at the path is a WARNING; a look that fails is an ERROR.
    logging.getLogger("anyconnpool").setLevel(logging.ERROR)
    for loop, options in LOOPS.items():
        backend = loop.partition("+")[0]
        anyio.run(main, loop, sys.argv[1], sys.argv[2:], backend=backend, backend_options=options)
