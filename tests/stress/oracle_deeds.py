"""What the oracle's clients do with a connection, and how a read of theirs may be cut short.

Each deed ends in a state of which a pool can know whether the connection may be used again. What
no pool can know is left out: a part read of a reply whose rest is still on its way, and then a
borrow that ends as if all was well.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import anyio
from anyio.abc import TaskGroup

from anyconnpool import PoolError

from .oracle_dialog import Dialog, NewsCame
from .oracle_wire import FORMS, PUSH, Request

# Sent in one go, so few bytes arrive together, whatever the transport.
_ATOMIC = 8_000
# Replies of several of uvloop's chunks (256 000 bytes) or of TLSStream's (64 KiB, the last record
# of which is incomplete), and pieces of them that leave nothing in the pool's own buffer.
_RECORD = 16_384
_LARGE = {"tcp": 600_000, "unix": 100_000, "tls12": 200_000, "tls13": 200_000, "memory": 60_000}
_TLS_PIECES = [_RECORD, 3 * _RECORD, 3 * _RECORD, 7 * _RECORD]
_PIECES = {
    "tcp": [65_536, 256_000, 256_000],
    "unix": [65_536],
    "tls12": _TLS_PIECES,
    "tls13": _TLS_PIECES,
    "memory": [1_000, _RECORD],
}


async def finished_before_native_cancel(
    seconds: float, reading: Callable[[], Awaitable[None]]
) -> bool:
    """Read; after some time, cancel the reading task natively, catch it and return false."""
    task = asyncio.current_task()
    assert task is not None
    struck = False

    def strike() -> None:
        nonlocal struck
        struck = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, strike)
    try:
        await reading()
    except asyncio.CancelledError:
        if not struck:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        return False
    finally:
        timer.cancel()
    return True


HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    ConnectionError,
    ssl.SSLError,
)


class BodyError(Exception):
    """What the body of a borrow raises."""


@dataclass
class Step:
    """One exchange to be made."""

    rng: Random
    kind: str
    request: Request
    #: another one, on the same connection
    second: Request
    #: how a read is cut short within the body: "", "timeout" or "native"
    cut_short: str
    count: Callable[[str], None]
    #: a group for tasks that outlive the exchange
    tasks: TaskGroup

    async def read(self, dialog: Dialog, reading: Callable[[], Awaitable[None]]) -> bool:
        """Read, perhaps cut short; then leave it, or try again. Tell whether it was read."""
        patience = self.rng.uniform(0, 0.006)
        if not self.cut_short:
            await reading()
            return True
        if await self._within(patience, reading):
            return True
        self.count(f"{self.cut_short} caught")
        dialog.look_at_buffer()
        if self.rng.random() < 0.5:
            return False
        await reading()
        return True

    async def _within(self, patience: float, reading: Callable[[], Awaitable[None]]) -> bool:
        if self.cut_short == "timeout":
            with suppress(TimeoutError), anyio.fail_after(patience):
                await reading()
                return True
            return False
        return await finished_before_native_cancel(patience, reading)


Deed = Callable[[Step, Dialog], Awaitable[None]]


async def exchange(step: Step, dialog: Dialog) -> None:
    """Ask and read the reply."""
    await dialog.ask(step.request)
    await step.read(dialog, lambda: dialog.read(step.request))


async def two_exchanges(step: Step, dialog: Dialog) -> None:
    """Ask twice, then read both replies."""
    await dialog.ask(step.request)
    await dialog.ask(step.second)
    if await step.read(dialog, lambda: dialog.read(step.request)):
        await step.read(dialog, lambda: dialog.read(step.second))


async def leave_unread(step: Step, dialog: Dialog) -> None:
    """Ask and leave."""
    await dialog.ask(step.request)


async def leave_while_another_reads(step: Step, dialog: Dialog) -> None:
    """Ask, have another task read the reply, and leave, perhaps before it has come."""
    await dialog.ask(step.request)
    step.tasks.start_soon(read_until_closed, step, dialog)
    await anyio.sleep(step.rng.uniform(0, 0.004))


async def read_until_closed(step: Step, dialog: Dialog) -> None:
    with suppress(anyio.ClosedResourceError, PoolError, *HANG_UPS):
        try:
            await dialog.read(step.request)
        except NewsCame:
            # It has taken them for the reply, which is still to come: no pool can know.
            dialog.connection.discard()


async def read_a_piece(step: Step, dialog: Dialog) -> None:
    """Read a piece of what has arrived, and leave the rest buffered, or even on its way."""
    size = step.rng.randrange(100, _ATOMIC)
    cut, pause = size // 2, step.rng.randrange(8_000)
    await dialog.ask(Request(step.request.key, step.request.form, size, 0, cut, pause))
    await step.read(dialog, lambda: dialog.read_piece(step.rng.randrange(1, cut)))


async def read_some_then_the_rest(step: Step, dialog: Dialog) -> None:
    """Read what there is, then exactly the rest of it: a body that knows how long replies are."""
    key, form, pause = step.request.key, step.request.form, step.rng.randrange(8_000)
    await dialog.ask(Request(key, form, 100, step.request.delay, 50, pause))
    if step.rng.random() < 0.2:
        await dialog.read_burst()
    else:
        await dialog.read_some(step.rng.choice([1, 50]))
    await step.read(dialog, dialog.read_rest)


async def fail_in_the_middle(step: Step, dialog: Dialog) -> None:
    """Read what there is, and raise over it."""
    request = Request(step.request.key, step.request.form, 100, 0, 50, step.rng.randrange(8_000))
    await dialog.ask(request)
    await dialog.read_some(50)
    raise BodyError


async def forget_a_reply(step: Step, dialog: Dialog) -> None:
    """Ask twice, read one reply, and leave when the other one has arrived unread."""
    await dialog.ask(step.request)
    late = Request(step.second.key, step.second.form, 100, 1_500)
    await dialog.ask(late)
    if await step.read(dialog, lambda: dialog.read(step.request)):
        if dialog.connection.buffer or await dialog.all_arrived(len(late.framed_reply)):
            step.count("forgotten")
        else:
            dialog.connection.discard()


async def leave_a_flood(step: Step, dialog: Dialog) -> None:
    """Leave when a large reply has arrived, of which a part was read that fills whole chunks."""
    size = _LARGE[step.kind]
    dialog.make_room()
    await dialog.ask(Request(step.request.key, "raw", size))
    if await dialog.all_arrived(size):
        step.count("floods")
        await dialog.read_piece(step.rng.choice(_PIECES[step.kind]))
    else:
        dialog.connection.discard()


async def leave_a_push(step: Step, dialog: Dialog) -> None:
    """Leave when a line has come that nobody has asked for, after the reply or with it."""
    pause = step.rng.choice([0, step.rng.randrange(3_000)])
    request = Request(step.request.key, "line", 40, pause=pause, ending="push")
    await dialog.ask(request)
    await dialog.read(request)
    if dialog.connection.buffer or await dialog.all_arrived(len(PUSH)):
        step.count("pushes")
        dialog.own_pushes()
    else:
        dialog.connection.discard()


async def read_until_silence(step: Step, dialog: Dialog) -> None:
    """Ask, and read until nothing comes; then the rest, if the server was slow."""
    size = step.rng.choice([20, 3_000, 70_000, 1_000_000])
    await dialog.ask_until_silence(Request(step.request.key, "raw", size, step.request.delay))
    step.count("read until silence")
    await dialog.read_rest()


async def read_a_large_reply(step: Step, dialog: Dialog) -> None:
    """Ask for up to 1 MB, in two segments or one, and read all of it."""
    size = step.rng.randrange(100_000, 1_000_000)
    cut = step.rng.choice([0, step.rng.randrange(1, size)])
    form = step.rng.choice(["package", "raw"])
    request = Request(step.request.key, form, size, 0, cut, step.rng.randrange(3_000))
    await dialog.ask(request)
    await step.read(dialog, lambda: dialog.read(request))
    step.count("large replies")


async def discard(step: Step, dialog: Dialog) -> None:
    """Ask and discard."""
    await dialog.ask(step.request)
    dialog.connection.discard()


async def detach(step: Step, dialog: Dialog) -> None:
    """Take the connection out of the pool, use it once more, and close it."""
    loose = Request(step.request.key, "line", 40, ending="loose")
    await dialog.ask(loose)
    await dialog.read(loose)
    async with dialog.connection.detach() as own:
        await own.send_line(step.second.text)


#: deeds and how often they are done
DEEDS: dict[Deed, int] = {
    exchange: 40,
    two_exchanges: 6,
    leave_unread: 3,
    leave_while_another_reads: 3,
    read_a_piece: 3,
    read_some_then_the_rest: 8,
    fail_in_the_middle: 3,
    forget_a_reply: 3,
    discard: 1,
    detach: 1,
    leave_a_flood: 5,
    leave_a_push: 4,
    read_until_silence: 3,
    read_a_large_reply: 2,
}


def draw_request(rng: Random, key: int) -> Request:
    """Draw a request: most are answered at once and as a whole."""
    form = rng.choice(FORMS)
    size = rng.choice([20, 20, 60, 300, 3_000])
    delay = rng.choice([0, 0, 0, rng.randrange(1_000), rng.randrange(8_000)])
    cut = pause = 0
    ending = "stay"
    if rng.random() < 0.15:
        cut, pause = rng.randrange(1, size), rng.randrange(5_000)
    if rng.random() < 0.03:
        ending = rng.choice(["after", "abort", "instead", "within"])
    return Request(key, form, size, delay, cut, pause, ending)
