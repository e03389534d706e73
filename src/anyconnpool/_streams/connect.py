"""Open TCP and UNIX sockets, in the same way on every event loop.

A host name can stand for several addresses. They are tried in turn, an IPv6 address first and then
alternately, and the next one as soon as the last has failed or has taken 250 ms (happy eyeballs,
RFC 8305, without its memory). The first that connects wins. uvloop's own connecting can't do this,
and asyncio's, uvloop's and trio's report failures in three ways.

Until a function here returns, the socket is its own: whatever cancels it, and wherever, leaves none
open. Between the opening of a socket and the block that closes it there is no ``await``.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

from anyio import (
    ConnectionFailed,
    Event,
    create_task_group,
    get_cancelled_exc_class,
    getaddrinfo,
    move_on_after,
    sleep,
    wait_writable,
)
from anyio.lowlevel import checkpoint, current_token

from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._util.cancellation import survive_stray_cancellation

if sys.version_info < (3, 11):
    # AnyIO depends on it.
    from exceptiongroup import ExceptionGroup

#: how long to wait for an attempt before the next one starts beside it, in seconds (RFC 8305)
ATTEMPT_DELAY: Final = 0.25
#: how long to wait before a UNIX socket whose backlog is full is tried again, in seconds
BACKLOG_DELAY: Final = 0.01

# That a connect goes on; the second is Windows'.
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EWOULDBLOCK)

#: a family and an address of it, as the socket module takes them
_Address: TypeAlias = tuple[int, tuple[Any, ...]]


async def open_stream(sock: socket.socket) -> PoolSocketStream:
    """Make a stream of a connected socket, which is closed if this fails or is cancelled.

    :param sock: a connected, non-blocking socket
    """
    # Where no descriptor is left, the import fails, too.
    with closed_on_error(sock):
        if on_trio():
            from anyconnpool._streams.trio_socket import TrioSocketStream

            return TrioSocketStream(sock)
        from anyconnpool._streams.asyncio_socket import AsyncioSocketStream

    stream = AsyncioSocketStream(sock)
    await stream.start()
    return stream


@contextmanager
def closed_on_error(sock: socket.socket) -> Generator[None]:
    """Close a socket if the block fails."""
    try:
        yield
    except BaseException:
        sock.close()
        raise


def on_trio() -> bool:
    """Tell whether the running event loop is trio's; otherwise it is one of asyncio's."""
    return current_token().backend_class.__name__ == "TrioBackend"


async def open_tcp_socket(host: str, port: int) -> socket.socket:
    """Connect to a TCP port.

    :param host: a host name or an IP address
    :param port: the port
    :return: a connected, non-blocking socket without Nagle's delay; it is the caller's to close
    :raises ConnectionFailed: if no address of the host can be connected to; the cause is the one
        error, or a group of all
    :raises OSError: if the host name can't be resolved
    """
    addresses = await _resolve(host, port)
    errors: list[OSError] = []
    try:
        if len(addresses) == 1:
            sock = await _try_to_connect(addresses[0], errors)
        else:
            sock = await _race(addresses, errors)
        if sock is None:
            raise ConnectionFailed(_describe(host, port, errors)) from _cause(errors)
        return sock
    finally:
        # The errors' tracebacks lead to this list: together they would be a cycle.
        errors.clear()


def _describe(host: str, port: int, errors: list[OSError]) -> str:
    """Say what happened; AnyIO says only that all attempts have failed."""
    texts = dict.fromkeys(error.strerror or str(error) for error in errors)
    tried = f" at each of {len(errors)} addresses" if len(errors) > 1 else ""
    return f"connecting to {host}:{port} failed{tried}: {', '.join(texts)}"


def _cause(errors: list[OSError]) -> Exception:
    if len(errors) == 1:
        return errors[0]
    return ExceptionGroup("multiple connection attempts failed", errors)


async def _resolve(host: str, port: int) -> list[_Address]:
    """Return the addresses of a host in the order in which to try them."""
    try:
        ip_address(host)
    except ValueError:
        hosts = [
            address[0] for *_, address in await getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
    else:
        await checkpoint()
        hosts = [host]
    found = [_numeric(host, port) for host in hosts]
    sixes = [address for address in found if address[0] == socket.AF_INET6]
    others = [address for address in found if address[0] != socket.AF_INET6]
    pairs = chain.from_iterable(zip_longest(sixes, others))
    return list(dict.fromkeys(address for address in pairs if address is not None))


def _numeric(host: str, port: int) -> _Address:
    """Parse an IP address. An IPv6 zone ("fe80::1%eth0") has a place of its own in the result."""
    flags = socket.AI_NUMERICHOST
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)[0]
    return family, address


async def _race(addresses: list[_Address], errors: list[OSError]) -> socket.socket | None:
    """Return the first socket that connects, and close all others."""
    winner: socket.socket | None = None

    async def attempt(address: _Address, ended: Event) -> None:
        nonlocal winner
        sock = None
        try:
            with survive_stray_cancellation():
                sock = await _try_to_connect(address, errors)
        finally:
            ended.set()
        if sock is not None and winner is None:
            winner = sock
            group.cancel_scope.cancel()
        elif sock is not None:
            sock.close()

    try:
        async with create_task_group() as group:
            for address in addresses:
                ended = Event()
                host, port = address[1][:2]
                group.start_soon(attempt, address, ended, name=f"connecting to {host}, port {port}")
                with move_on_after(ATTEMPT_DELAY):
                    await ended.wait()
    except BaseException:
        # A cancellation that is not the group's own, after an attempt has won.
        if winner is not None:
            winner.close()
        raise
    if winner is None and not errors:
        # Natively, before its first step: AnyIO ends the group for that.
        errors.append(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
    return winner


async def _try_to_connect(address: _Address, errors: list[OSError]) -> socket.socket | None:
    try:
        return await _connect_tcp_socket(*address)
    except OSError as error:
        errors.append(error)
        return None
    except get_cancelled_exc_class():
        # If no scope has asked for it, this was an attempt like the others.
        errors.append(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
        raise


async def _connect_tcp_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code in _UNDER_WAY:
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code), f"{address[0]}:{address[1]}")
    except BaseException:
        sock.close()
        raise
    return sock


async def open_unix_socket(path: str | bytes) -> socket.socket:
    """Connect to a UNIX socket.

    :param path: the path of the socket
    :return: a connected, non-blocking socket; it is the caller's to close
    :raises OSError: if nobody listens there, or the system has no such sockets
    """
    await checkpoint()
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "This system has no UNIX sockets", os.fsdecode(path))
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        # A full backlog can't be waited for: asyncio would take the socket for connected, and
        # AnyIO would try again without a pause.
        while (code := sock.connect_ex(os.fsencode(path))) == errno.EAGAIN:  # noqa: ASYNC110
            await sleep(BACKLOG_DELAY)
        if code:
            raise OSError(code, os.strerror(code), os.fsdecode(path))
    except BaseException:
        sock.close()
        raise
    return sock
