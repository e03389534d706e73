"""Exchanges in flight on shared connections, sentence by sentence of what they promise."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    IncompleteRead,
    create_task_group,
    fail_after,
    move_on_after,
)

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    PackageFormat,
    PoolClosed,
    PooledConnection,
    PoolFull,
    PoolManager,
    Retry,
)
from anyconnpool.events import PoolEvent

from .network import MemoryNetwork, check_books, fill, hang, settle
from .scenarios_exchanges import silence

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

Outcomes = dict[object, object]


def say_more(data: bytes) -> bytes:
    return data + b"more\n"


def quiet_network() -> MemoryNetwork:
    """Make a network whose server says only what a test has it say."""
    return MemoryNetwork(answer=silence)


async def read_line(connection: PooledConnection[Any]) -> bytes:
    return await connection.receive_line()


class Callers:
    """Tasks that do exchanges, and what has become of each."""

    def __init__(self, pool: ConnectionPool[Any], tasks: anyio.abc.TaskGroup) -> None:
        self.pool, self.tasks = pool, tasks
        self.outcomes: Outcomes = {}
        self.scopes: dict[object, CancelScope] = {}

    async def one(self, line: bytes, options: dict[str, Any] | None = None) -> None:
        """Do one exchange."""
        options = options or {}
        read = options.pop("read", read_line)
        with CancelScope() as self.scopes[line]:
            try:
                outcome: object = await self.pool.exchange(line + b"\n", read, **options)
            except Exception as error:
                outcome = error
            self.outcomes[line] = outcome

    async def ask(self, *lines: bytes, **options: Any) -> None:
        """Have requests made, one after the other, and sent as far as they can be."""
        for line in lines:
            self.tasks.start_soon(self.one, line, dict(options))
            await settle(3)
        await settle()


async def test_requests_share_one_send_and_replies_one_receive() -> None:
    """All four calls share a connection; what is asked in one turn leaves together, in order."""
    network = MemoryNetwork()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        await fill(pool, 1)
        replies: list[bytes] = []

        async def note(call: Callable[[], Any]) -> None:
            replies.append(await call())

        for call in (
            lambda: pool.send_receive_line(b"one"),
            lambda: pool.send_receive_package(b"two"),
            lambda: pool.send_receive(b"three", 5),
            lambda: pool.exchange(b"four\n", read_line),
        ):
            tasks.start_soon(note, call)
        await settle()
        assert sorted(replies) == [b"four", b"one", b"three", b"two"]
        assert network.opened == 1
        assert pool.statistics().acquired == 2, "one borrow for all four, after that of fill()"


async def test_replies_belong_to_requests_in_order_however_they_arrive() -> None:
    """Cut anywhere, each caller gets the reply to his own request."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        lines = [b"a", b"bb", b"", b"dddd"]
        await callers.ask(*lines)
        peer = network.peers[0]
        assert bytes(peer.received) == b"a\nbb\n\ndddd\n"
        assert pool.statistics().in_flight == 4
        assert (pool.statistics().in_use, pool.statistics().tasks_waiting) == (1, 0)
        for byte in bytes(peer.received):
            peer.push(bytes([byte]))
            await settle(4)
        assert callers.outcomes == {line: line for line in lines}
        assert (pool.statistics().in_flight, pool.statistics().idle) == (0, 1)
        await check_books(pool, network)


async def test_the_other_calls_have_connections_of_their_own() -> None:
    """What waits for silence, frames of a format, run(), acquire() and send() share nothing."""
    network = quiet_network()
    async with ConnectionPool(network, max_size=9, pipeline=8, one_way=False) as pool:
        await fill(pool, 1)
        calls: list[Callable[[], Any]] = [
            lambda: pool.send_receive(b"x"),
            lambda: pool.send_receive_frame(b"x", PackageFormat()),
            lambda: pool.run(lambda connection: connection.receive()),
        ]
        for call in calls:
            with move_on_after(1):
                await call()
            assert pool.statistics().in_flight == 0


async def test_requests_get_connections_of_their_own_while_there_are_enough() -> None:
    """Nobody shares before max_size is reached."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=3, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3", b"4")
        assert network.opened == 3
        assert sorted(bytes(peer.received) for peer in network.peers) == [b"1\n4\n", b"2\n", b"3\n"]
        tasks.cancel_scope.cancel()


async def test_a_caller_that_gives_up_costs_nobody_anything() -> None:
    """Cancelled after it was sent, its reply is read for nobody; no connection is closed."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        callers.scopes[b"2"].cancel()
        await settle()
        assert pool.statistics().in_flight == 3
        network.peers[0].push(b"1\n2\n3\n")
        await settle()
        assert callers.outcomes == {b"1": b"1", b"3": b"3"}
        assert network.closed == 0
        assert pool.statistics().idle == 1


async def test_what_was_not_sent_is_taken_out_when_its_caller_gives_up() -> None:
    """Behind a writer that is blocked, a request that is given up is never sent."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        await fill(pool, 1)
        peer = network.peers[0]
        peer.stalled = True
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        assert pool.statistics().in_flight == 3
        callers.scopes[b"2"].cancel()
        await settle()
        assert pool.statistics().in_flight == 2
        peer.stalled = False
        peer.client.wake()
        await settle()
        assert bytes(peer.received) == b"1\n3\n"
        peer.push(b"1\n3\n")
        await settle()
        assert callers.outcomes == {b"1": b"1", b"3": b"3"}


async def test_a_request_that_runs_out_of_time_gets_the_error_and_the_others_go_on() -> None:
    """The text says what was sent; a reply that comes later is dropped."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        with pytest.raises(TimeoutError, match=r"no reply from pool .* within 2 s: sent 3 bytes"):
            await pool.send_receive_line(b"22", timeout=2)
        await callers.ask(b"3")
        network.peers[0].push(b"1\n22\n3\n")
        await settle()
        assert callers.outcomes == {b"1": b"1", b"3": b"3"}
        assert network.closed == 0


async def test_whoever_waits_for_a_place_in_vain_gets_acquire_timeout() -> None:
    """acquire_timeout limits the waiting alone, timeout= all; max_waiting the number."""
    network = quiet_network()
    settings: dict[str, Any] = {
        "max_size": 1,
        "pipeline": 2,
        "acquire_timeout": 3,
        "max_waiting": 1,
    }
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        assert pool.statistics().tasks_waiting == 1
        with pytest.raises(PoolFull):
            await pool.exchange(b"4\n", read_line)
        await anyio.sleep(4)
        assert isinstance(callers.outcomes[b"3"], AcquireTimeout)
        assert b"1" not in callers.outcomes, "what has a place is not waiting any more"
        with pytest.raises(AcquireTimeout, match="within 1 s"):
            await pool.exchange(b"5\n", read_line, timeout=1)
        assert pool.statistics().timed_out == 2
        network.peers[0].push(b"1\n2\n")
        await settle()


async def test_a_place_that_was_waited_for_leaves_the_rest_of_the_time() -> None:
    """The limit of all of it goes on when the waiting is over."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=2) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2")
        await callers.ask(b"3", timeout=5)
        await anyio.sleep(3)
        network.peers[0].push(b"1\n2\n")
        await anyio.sleep(1)
        assert bytes(network.peers[0].received) == b"1\n2\n3\n"
        assert b"3" not in callers.outcomes
        await anyio.sleep(1.5)
        assert isinstance(callers.outcomes[b"3"], TimeoutError)
        assert not isinstance(callers.outcomes[b"3"], AcquireTimeout)


async def test_who_is_out_of_time_behind_a_blocked_writer_has_sent_nothing() -> None:
    """The error says so, and for how long the exchange took as a whole."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 2, "acquire_timeout": 3}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        await fill(pool, 1)
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2")
        network.peers[0].stalled = True
        await callers.ask(b"3", b"4", timeout=5)
        await anyio.sleep(2)
        for reply in (b"1\n", b"2\n"):
            network.peers[0].push(reply)
            await settle()
        await anyio.sleep(4)
        assert "within 5 s: sent 2 bytes, received 0" in str(callers.outcomes[b"3"])
        assert "within 5 s: sent 0 bytes, received 0" in str(callers.outcomes[b"4"])
        network.peers[0].hang_up()


async def test_a_hang_up_between_replies_is_an_error_of_each_ones_own() -> None:
    """Each exchange in flight gets its own EndOfStream."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        network.peers[0].push(b"1\n")
        network.peers[0].hang_up()
        await settle()
        assert callers.outcomes.pop(b"1") == b"1"
        errors = list(callers.outcomes.values())
        assert [type(error) for error in errors] == [EndOfStream] * 2
        assert errors[0] is not errors[1]
        await check_books(pool, network)


async def test_a_hang_up_within_a_reply_breaks_the_others() -> None:
    """Whose reply was cut gets what his read raised, the others BrokenResourceErrors."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        network.peers[0].push(b"1\n2")
        network.peers[0].hang_up()
        await settle()
        assert isinstance(callers.outcomes[b"2"], IncompleteRead)
        assert isinstance(callers.outcomes[b"3"], BrokenResourceError)
        assert pool.statistics().closed == {"unclean": 1}


async def test_what_a_read_raises_is_its_callers_own_and_breaks_the_others() -> None:
    """The others can be repeated by retry=."""
    network = quiet_network()
    error = ValueError("no")

    async def fail(connection: PooledConnection[Any]) -> bytes:
        await connection.receive_line()
        raise error

    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", read=fail)
        await callers.ask(b"2", b"3")
        await callers.ask(b"4", retry=Retry(1, interval=1, jitter=0))
        network.peers[0].push(b"1\n2\n3\n4\n")
        await settle()
        assert callers.outcomes[b"1"] is error
        broken = [callers.outcomes[b"2"], callers.outcomes[b"3"]]
        assert [type(other) for other in broken] == [BrokenResourceError] * 2
        assert broken[0] is not broken[1]
        assert "no" in str(broken[0])
        await anyio.sleep(2)
        network.peers[1].push(b"4\n")
        await settle()
        assert callers.outcomes[b"4"] == b"4"
        assert pool.statistics().replayed == 1


async def test_a_harmless_error_after_a_whole_reply_breaks_nothing() -> None:
    """The others go on, on the same connection."""

    class WrongType(Exception):
        pass

    async def fail(connection: PooledConnection[Any]) -> bytes:
        raise WrongType(await connection.receive_line())

    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "harmless": (WrongType,)}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1", read=fail)
        await callers.ask(b"2")
        network.peers[0].push(b"-ERR\n2\n")
        await settle()
        assert isinstance(callers.outcomes[b"1"], WrongType)
        assert callers.outcomes[b"2"] == b"2"
        assert pool.statistics().idle == 1


@pytest.mark.parametrize("how", ["before it reads", "after a failure"])
async def test_a_harmless_error_before_the_whole_reply_closes_the_connection(how: str) -> None:
    """Nobody would know where the next reply begins."""

    class WrongType(Exception):
        pass

    async def fail(connection: PooledConnection[Any]) -> bytes:
        if how == "after a failure":
            with pytest.raises(anyio.DelimiterNotFound):
                await connection.receive_line(max_bytes=1)
            await connection.receive_line()
        raise WrongType

    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "harmless": (WrongType,)}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"11", read=fail)
        await callers.ask(b"2")
        if network.peers[0].client.closed:
            network.peers[-1].push(b"2\n")
        else:
            network.peers[0].push(b"11\n2\n")
        await settle()
        assert isinstance(callers.outcomes[b"11"], WrongType)
        assert network.closed == 1
        assert callers.outcomes.get(b"2") != b"11"


async def test_a_request_that_has_lost_its_place_waits_for_acquire_timeout_anew() -> None:
    """Not for ever, and not as long as it had waited before."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "acquire_timeout": 3}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        await fill(pool, 1)
        peer = network.peers[0]
        peer.stalled = True
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2")
        await anyio.sleep(10)
        assert not callers.outcomes
        network.on_connect = hang
        peer.hang_up()
        peer.stalled = False
        peer.client.wake()
        await anyio.sleep(2)
        assert b"2" not in callers.outcomes
        await anyio.sleep(2)
        assert isinstance(callers.outcomes[b"2"], AcquireTimeout)


async def test_a_connection_on_which_sending_has_failed_is_not_reused() -> None:
    """Also if every reply came."""
    network = MemoryNetwork()

    def answer_and_fail(data: bytes) -> bytes:
        network.peers[-1].push(data)
        raise BrokenResourceError

    network.answer = answer_and_fail
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        assert await pool.exchange(b"1\n", read_line) == b"1"
        await settle()
        assert pool.statistics().closed == {"unclean": 1}


async def test_bytes_that_a_busy_event_loop_has_not_received_are_no_stall() -> None:
    """They have come in time: the connection goes on."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "stall_timeout": 10}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        # Nobody is woken for them yet.
        network.peers[0].client.unread += b"1\n"
        await anyio.sleep(11)
        assert not callers.outcomes
        network.peers[0].client.wake()
        await settle()
        assert callers.outcomes == {b"1": b"1"}


async def test_what_was_not_sent_goes_to_another_connection_without_being_asked() -> None:
    """Behind a blocked writer, requests survive the end of their connection."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        await fill(pool, 1)
        peer = network.peers[0]
        peer.stalled = True
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        peer.hang_up()
        peer.stalled = False
        peer.client.wake()
        await anyio.sleep(1)
        assert isinstance(callers.outcomes.pop(b"1"), (EndOfStream, BrokenResourceError))
        assert not callers.outcomes
        assert bytes(network.peers[1].received) == b"2\n3\n"
        network.peers[1].push(b"2\n3\n")
        await settle()
        assert callers.outcomes == {b"2": b"2", b"3": b"3"}


@pytest.mark.parametrize("retry", [None, Retry(0)])
async def test_a_reused_connection_that_proves_dead_is_replaced_with_retry(
    retry: Retry | None,
) -> None:
    """One that had served a reply counts as reused: with retry=, that is no try."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        assert await pool.exchange(b"1\n", read_line) == b"1"

        def hang_up(data: bytes) -> bytes:
            network.peers[0].hang_up()
            return b""

        network.answer = hang_up
        if retry is None:
            with pytest.raises(EndOfStream):
                await pool.exchange(b"2\n", read_line)
            return

        def answer(data: bytes) -> bytes:
            if network.opened == 1:
                network.peers[0].hang_up()
                return b""
            return data

        network.answer = answer
        assert await pool.exchange(b"2\n", read_line, retry=retry) == b"2"
        assert network.opened == 2


async def test_bytes_that_nobody_asked_for_reach_no_exchange() -> None:
    """What is left after the last reply closes the connection; so does what comes while idle."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        network.answer = say_more
        assert await pool.exchange(b"1\n", read_line) == b"1"
        await settle()
        assert pool.statistics().closed == {"unread_data": 1}
        network.answer = bytes
        assert await pool.exchange(b"2\n", read_line) == b"2"
        network.peers[1].push(b"pushed\n")
        assert await pool.exchange(b"3\n", read_line) == b"3"
        assert pool.statistics().closed == {"unread_data": 2}


@pytest.mark.parametrize("built_in", [False, True])
async def test_bytes_received_before_a_request_was_sent_are_not_its_reply(built_in: bool) -> None:
    """Although other replies were owed when they came: the connection is closed instead."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        gate = anyio.Event()

        async def wait_and_read(connection: PooledConnection[Any]) -> bytes:
            line = await connection.receive_line()
            await gate.wait()
            return line

        await callers.ask(b"1", read=wait_and_read)
        network.peers[0].push(b"1\nforged\n")
        await settle()
        errors: list[Exception] = []

        async def ask_for_a_line() -> None:
            try:
                await pool.send_receive_line(b"2")
            except BrokenResourceError as error:
                errors.append(error)

        if built_in:
            tasks.start_soon(ask_for_a_line)
            await settle()
        else:
            await callers.ask(b"2")
        assert bytes(network.peers[0].received) == b"1\n2\n"
        gate.set()
        await settle()
        assert callers.outcomes[b"1"] == b"1"
        assert errors or isinstance(callers.outcomes[b"2"], BrokenResourceError)
        assert pool.statistics().closed == {"unread_data": 1}


async def test_a_greeting_is_an_unasked_byte_unless_on_connect_reads_it() -> None:
    """The request is not sent and fails with advice; others wait for a connection that greets."""
    network = MemoryNetwork()

    async def greet(number: int) -> None:
        await anyio.lowlevel.checkpoint()

    network.on_connect = greet
    connect = network.connect

    async def connect_and_greet() -> Any:
        stream = await connect()
        stream.peer.push(b"hello\n")
        return stream

    network.connect = connect_and_greet  # type: ignore[method-assign]
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        with pytest.raises(BrokenResourceError, match="on_connect"):
            await pool.exchange(b"1\n", read_line)
        assert not network.peers[0].received

    async def read_greeting(connection: PooledConnection[Any]) -> bytes:
        return await connection.receive_line()

    async with ConnectionPool(network, max_size=1, pipeline=8, on_connect=read_greeting) as pool2:
        assert await pool2.exchange(b"1\n", read_line) == b"1"
        assert pool2.statistics().idle == 1


async def test_a_connection_that_stalls_is_closed() -> None:
    """Each in flight gets an error that names the setting; a byte starts the time anew."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "stall_timeout": 10}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2")
        await anyio.sleep(8)
        network.peers[0].push(b"1")
        await anyio.sleep(9)
        assert not callers.outcomes
        await anyio.sleep(1.5)
        assert [type(error) for error in callers.outcomes.values()] == [BrokenResourceError] * 2
        assert all("stall_timeout, 10 s" in str(error) for error in callers.outcomes.values())
        # An idle connection owes nothing.
        network.answer = bytes
        assert await pool.exchange(b"3\n", read_line) == b"3"
        await anyio.sleep(30)
        assert pool.statistics().idle == 1


async def test_a_peer_that_has_answered_what_it_does_not_take_stalls_too() -> None:
    """Else who waits behind it, and who wants a connection, would wait for ever."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "stall_timeout": 10}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        await fill(pool, 1)
        peer = network.peers[0]
        peer.stalled = True
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        peer.push(b"1\n")
        await anyio.sleep(5)
        assert callers.outcomes == {b"1": b"1"}
        network.answer = bytes
        await callers.ask(b"2")
        async with pool.acquire(timeout=20):
            pass
        await settle()
        assert callers.outcomes == {b"1": b"1", b"2": b"2"}
        assert network.closed == 1


async def test_an_infinite_stall_timeout_is_none() -> None:
    """The connection waits as long as its callers do."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "stall_timeout": math.inf}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        await anyio.sleep(10_000)
        network.peers[0].push(b"1\n")
        await settle()
        assert callers.outcomes == {b"1": b"1"}


async def test_replies_are_read_while_the_peer_takes_no_requests() -> None:
    """Sending never stops the reading: a server may want its replies read first."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        peer = network.peers[0]
        peer.stalled = True
        await callers.ask(b"2", b"3")
        peer.push(b"1\n")
        await settle()
        assert callers.outcomes == {b"1": b"1"}
        assert pool.statistics().in_flight == 2, "those behind a blocked writer are in flight"
        peer.stalled = False
        peer.client.wake()
        await settle()
        peer.push(b"2\n3\n")
        await settle()
        assert len(callers.outcomes) == 3


async def test_a_borrower_is_not_starved_by_a_stream_of_exchanges() -> None:
    """The connection finishes and goes to the one who waits; then the stream goes on."""
    network = MemoryNetwork()
    async with (
        ConnectionPool(network, max_size=1, pipeline=4) as pool,
        create_task_group() as tasks,
    ):

        async def stream(number: int) -> None:
            while True:
                assert await pool.exchange(b"%d\n" % number, read_line) == b"%d" % number

        for number in range(8):
            tasks.start_soon(stream, number)
        await settle()
        with fail_after(1):
            for _ in range(3):
                async with pool.acquire() as connection:
                    assert await connection.send_receive_line(b"mine") == b"mine"
                    assert pool.statistics().in_flight == 0
                await settle(5)
        tasks.cancel_scope.cancel()
    assert network.opened == 1


async def test_retired_and_used_up_connections_are_replaced_under_way() -> None:
    """A busy shared connection takes no new requests after retire() or max_uses, and is closed."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1")
        pool.retire()
        await callers.ask(b"2")
        assert bytes(network.peers[0].received) == b"1\n"
        network.peers[0].push(b"1\n")
        await anyio.sleep(1)
        assert pool.statistics().closed == {"retired": 1}
        assert bytes(network.peers[1].received) == b"2\n"
        network.peers[1].push(b"2\n")
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8, max_uses=2) as pool:
        for _ in range(5):
            assert await pool.exchange(b"1\n", read_line) == b"1"
            await settle()
        assert pool.statistics().closed == {"max_uses": 2}


variable: ContextVar[str] = ContextVar("variable", default="the pool's")


async def test_read_runs_in_the_context_of_its_caller_outside_its_scopes() -> None:
    """It sees the variables as they were when it was called; a scope of the caller's is not its."""
    network = quiet_network()
    seen: list[object] = []

    async def read(connection: PooledConnection[Any]) -> bytes:
        seen.append(variable.get())
        variable.set("read's own")
        assert connection.has_sent
        reply = await connection.receive_line()
        seen.extend([variable.get(), anyio.current_effective_deadline(), reply])
        return reply

    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        token = variable.set("the caller's")
        with move_on_after(5):
            await pool.exchange(b"1\n", read)
        assert variable.get() == "the caller's"
        variable.reset(token)
        await callers.ask(b"2")
        network.peers[0].push(b"1\n2\n")
        await settle()
        assert seen == ["the caller's", "read's own", math.inf, b"1"]
        assert callers.outcomes == {b"2": b"2"}


@pytest.mark.parametrize("pipeline", [1, 8])
@pytest.mark.parametrize("what", ["send", "send_eof", "aclose", "discard", "detach", "leave"])
async def test_read_only_reads(what: str, pipeline: int) -> None:
    """Whatever else it tries is refused, and the connection closed, also if it hides that."""
    network = MemoryNetwork()

    async def meddle(connection: PooledConnection[Any]) -> bytes:
        reply = await connection.receive_line()
        with pytest.raises(RuntimeError, match="only reads"):
            if what == "leave":
                async with connection:
                    pass
            elif what in ("discard", "detach"):
                getattr(connection, what)()
            else:
                await getattr(connection, what)(*([b"x"] if what == "send" else []))
        return reply

    async with ConnectionPool(network, max_size=1, pipeline=pipeline) as pool:
        assert await pool.exchange(b"1\n", meddle) == b"1"
        await settle()
        assert pool.statistics().closed == {"unclean": 1}


async def test_a_connection_that_read_has_kept_reads_nothing_more() -> None:
    """The replies of others are out of its reach."""
    network = quiet_network()
    kept: list[PooledConnection[Any]] = []

    async def keep(connection: PooledConnection[Any]) -> bytes:
        kept.append(connection)
        return await connection.receive_line()

    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", read=keep)
        await callers.ask(b"2")
        network.peers[0].push(b"1\n")
        await settle()
        with pytest.raises(anyio.ClosedResourceError):
            await kept[0].receive_line()
        network.peers[0].push(b"2\n")
        await settle()
        assert callers.outcomes == {b"1": b"1", b"2": b"2"}


async def test_a_read_that_reads_nothing_closes_the_connection() -> None:
    """Its reply is owed still, and must not be the next one's."""
    network = quiet_network()

    async def read_nothing(connection: PooledConnection[Any]) -> bytes:
        return b"nothing"

    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2")
        await callers.ask(b"3", read=read_nothing)
        await callers.ask(b"4")
        network.peers[0].push(b"1\n2\n")
        await settle()
        assert callers.outcomes[b"3"] == b"nothing"
        assert isinstance(callers.outcomes[b"4"], BrokenResourceError)


@pytest.mark.parametrize("pipeline", [1, 4])
async def test_what_a_plain_read_function_raises_is_no_reply(pipeline: int) -> None:
    """StopIteration is what a coroutine ends with that has a result."""
    network = MemoryNetwork()

    def read(connection: PooledConnection[Any]) -> Any:
        raise StopIteration(b"no reply")

    async with ConnectionPool(network, max_size=1, pipeline=pipeline) as pool:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await pool.exchange(b"1\n", read, timeout=3)
        assert await pool.exchange(b"2\n", read_line, timeout=3) == b"2"


async def test_an_error_that_a_read_hides_breaks_the_others_at_once() -> None:
    """Nobody knows then where the next reply begins."""
    network = quiet_network()

    async def hide(connection: PooledConnection[Any]) -> bytes:
        with pytest.raises(anyio.DelimiterNotFound):
            await connection.receive_line(max_bytes=1)
        return await connection.receive_line()

    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        callers = Callers(pool, tasks)
        await callers.ask(b"11", read=hide)
        await callers.ask(b"2")
        network.peers[0].push(b"11\n2\n")
        await settle()
        assert callers.outcomes[b"11"] == b"11"
        assert isinstance(callers.outcomes[b"2"], BrokenResourceError)


async def test_when_a_read_ends_the_program_nobody_reads_on() -> None:
    """Else the next reply would be taken for the one that it has read."""
    network = quiet_network()

    async def end_program(connection: PooledConnection[Any]) -> bytes:
        line = await connection.receive_line()
        if line == b"1":
            # In a group: asyncio would stop its loop for the error itself.
            raise BaseExceptionGroup("stop", [SystemExit(3)])
        return line

    async def ask(line: bytes) -> None:
        with CancelScope(shield=True):
            try:
                outcomes[line] = await pool.exchange(line + b"\n", end_program, timeout=9)
            except Exception as error:
                outcomes[line] = error

    outcomes: Outcomes = {}
    with pytest.raises(BaseExceptionGroup):
        async with (
            ConnectionPool(network, max_size=1, pipeline=8) as pool,
            create_task_group() as tasks,
        ):
            for line in (b"1", b"2", b"3"):
                tasks.start_soon(ask, line)
                await settle(3)
            await settle()
            network.peers[0].push(b"1\n2\n3\n")
            try:
                await anyio.sleep_forever()
            finally:
                await ask(b"last words")
    assert len(outcomes) == 4
    assert all(isinstance(outcome, Exception) for outcome in outcomes.values())


async def test_a_read_that_is_cancelled_from_within_is_an_error_of_its_own(
    anyio_backend_name: str,
) -> None:
    """What it awaits was cancelled, not it: the caller gets an error, the pool goes on."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio knows no such thing")
    network = MemoryNetwork()

    async def await_what_is_cancelled(connection: PooledConnection[Any]) -> bytes:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        return b""

    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        with pytest.raises(BrokenResourceError, match="was cancelled"):
            await pool.exchange(b"1\n", await_what_is_cancelled)
        await settle()
        assert await pool.exchange(b"2\n", read_line) == b"2"


async def test_the_request_is_copied_before_the_call_returns_to_the_loop() -> None:
    """Its buffer may be used for something else meanwhile; what is not bytes is refused."""
    network = MemoryNetwork()
    async with (
        ConnectionPool(network, max_size=1, pipeline=8) as pool,
        create_task_group() as tasks,
    ):
        await fill(pool, 1)
        buffer = bytearray(b"good\n")
        replies: list[bytes] = []

        async def ask() -> None:
            replies.append(await pool.exchange(memoryview(buffer), read_line))

        def reuse() -> None:
            buffer[:] = b"evil\n"

        # Before anything is sent, the pool looks at the connection.
        network.on_look = reuse
        tasks.start_soon(ask)
        await settle()
        assert replies == [b"good"]
        with pytest.raises(TypeError, match="the request"):
            await pool.exchange("text", read_line)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="read must be"):
            await pool.exchange(b"x", None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the read function"):
            await pool.exchange(b"x\n", lambda connection: b"no")  # type: ignore[arg-type, return-value]


async def test_each_reply_makes_room_for_one_more_before_the_next_is_waited_for() -> None:
    """Also where no function reads them: what waits in line is sent at once."""
    network = quiet_network()
    async with (
        ConnectionPool(network, max_size=1, pipeline=2) as pool,
        create_task_group() as tasks,
    ):
        for line in (b"a", b"b", b"c"):
            tasks.start_soon(pool.send_receive_line, line)
            await settle()
        (peer,) = network.peers
        assert bytes(peer.received) == b"a\nb\n"
        peer.push(b"a\n")
        await settle()
        assert bytes(peer.received) == b"a\nb\nc\n"
        peer.push(b"b\nc\n")


async def test_who_gives_up_waiting_for_a_place_is_counted() -> None:
    """Like one who gives up in acquire(); who had a place has waited for nothing."""
    async with ConnectionPool(MemoryNetwork(hang), max_size=1, pipeline=2) as pool:
        with move_on_after(1):
            await pool.send_receive_line(b"x")
        assert pool.statistics().cancelled == 1
    async with ConnectionPool(quiet_network(), max_size=1, pipeline=2) as pool:
        with move_on_after(1):
            await pool.send_receive_line(b"x")
        assert pool.statistics().cancelled == 0


async def test_at_the_end_of_the_block_exchanges_in_flight_have_time_to_finish() -> None:
    """Those that wait for a place are told at once; what isn't finished in time is told, too."""
    network = quiet_network()
    async with create_task_group() as tasks:
        pool = ConnectionPool(network, max_size=1, pipeline=2, close_timeout=5)
        callers = Callers(pool, tasks)
        async with pool:
            await callers.ask(b"1", b"2", b"3")
            tasks.start_soon(_push_after, network, 2, b"1\n")
        assert anyio.current_time() == pytest.approx(5, abs=0.2)
        await settle()
        assert callers.outcomes[b"1"] == b"1"
        assert isinstance(callers.outcomes[b"2"], PoolClosed)
        assert isinstance(callers.outcomes[b"3"], PoolClosed)
        assert network.open_now == 0


async def _push_after(network: MemoryNetwork, seconds: float, data: bytes) -> None:
    await anyio.sleep(seconds)
    network.peers[0].push(data)


async def test_the_end_of_the_block_does_not_wait_for_what_was_given_up() -> None:
    """With only abandoned exchanges in flight, now or a moment later, the connection is closed.

    It gets no farewell, whose reply would be one of those that are owed.
    """
    network = quiet_network()

    async def say_goodbye(connection: PooledConnection[Any]) -> None:
        await connection.send_line(b"goodbye")

    async with create_task_group() as tasks:
        pool = ConnectionPool(
            network, max_size=1, pipeline=4, close_timeout=50, on_close=say_goodbye
        )
        callers = Callers(pool, tasks)
        async with pool:
            await callers.ask(b"1", b"2", b"3")
            callers.scopes[b"2"].cancel()
            callers.scopes[b"3"].cancel()
            tasks.start_soon(_push_after, network, 2, b"1\n")
        assert anyio.current_time() == pytest.approx(2, abs=0.2)
        assert callers.outcomes == {b"1": b"1"}
        assert pool.statistics().closed == {"unclean": 1}
        assert bytes(network.peers[0].received) == b"1\n2\n3\n"


async def test_the_end_of_the_block_waits_for_nobody_if_all_have_given_up() -> None:
    """A connection on which only abandoned exchanges are in flight is closed at once."""
    network = quiet_network()
    async with create_task_group() as tasks:
        pool = ConnectionPool(network, max_size=1, pipeline=4, close_timeout=50)
        callers = Callers(pool, tasks)
        async with pool:
            await callers.ask(b"1", b"2")
            callers.scopes[b"1"].cancel()
            callers.scopes[b"2"].cancel()
            await settle()
        assert anyio.current_time() < 1
        assert pool.statistics().closed == {"unclean": 1}


async def test_a_shared_connection_is_no_leak(caplog: pytest.LogCaptureFixture) -> None:
    """leak_after and the warning at the end of the block leave it out."""
    network = quiet_network()
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 4, "leak_after": 1, "close_timeout": 1}
    async with create_task_group() as tasks:
        pool = ConnectionPool(network, **settings)
        callers = Callers(pool, tasks)
        async with pool:
            await callers.ask(b"1")
            await anyio.sleep(20)
        await settle()
        assert isinstance(callers.outcomes[b"1"], PoolClosed)
        assert not caplog.records


async def test_a_connection_that_was_shared_can_be_detached() -> None:
    """It belongs to its borrower then, and the pool's block ends without it."""
    network = MemoryNetwork()
    with fail_after(9):
        async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
            assert await pool.exchange(b"1\n", read_line) == b"1"
            await settle()
            async with pool.acquire() as connection:
                stream = connection.detach()
    assert await stream.send_receive_line(b"2") == b"2"
    await stream.aclose()


async def test_observers_hear_of_borrows_not_of_exchanges() -> None:
    """A shared connection is acquired once and released once, however many share it."""
    network = quiet_network()
    seen: list[PoolEvent] = []
    settings: dict[str, Any] = {"max_size": 1, "pipeline": 4, "observers": [seen.append]}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3")
        network.peers[0].push(b"1\n2\n3\n")
        await settle()
        names = [type(event).__name__ for event in seen]
        assert names == [
            *("PoolStarted", "ConnectionOpened", "ConnectionAcquired", "ConnectionReleased")
        ]
        await callers.ask(b"4", b"5", b"6", b"7")
        with pytest.raises(AcquireTimeout):
            await pool.exchange(b"8\n", read_line, timeout=1)
        assert type(seen[-1]).__name__ == "AcquireTimedOut"
        network.peers[0].push(b"4\n5\n6\n7\n")


async def test_a_managers_remotes_share_their_own_connections() -> None:
    """With max_total, a stream to one remote makes way for whoever waits for another."""
    one, two = MemoryNetwork(), MemoryNetwork()
    async with PoolManager(max_total=1, pipeline=4) as manager, create_task_group() as tasks:

        async def stream(number: int) -> None:
            while True:
                assert await manager.exchange(one, b"%d\n" % number, read_line) == b"%d" % number

        for number in range(6):
            tasks.start_soon(stream, number)
        most = 0
        for _ in range(100):
            await settle(1)
            statistics = manager.statistics().get(one)
            most = max(most, statistics.in_flight if statistics else 0)
        assert most == 4
        for _ in range(3):
            with fail_after(1):
                assert await manager.exchange(two, b"x\n", read_line) == b"x"
            await settle(10)
        tasks.cancel_scope.cancel()
    assert max(one.most_open, two.most_open) == 1


@pytest.mark.parametrize("pipeline", [1, 4])
async def test_exchange_works_with_and_without_sharing(pipeline: int) -> None:
    """The same call, the same reply, the same errors; a limit, and repeats."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=pipeline) as pool:
        assert await pool.exchange(b"1\n", read_line) == b"1"
        assert await pool.exchange(b"12", lambda c: c.receive_exactly(2), timeout=3) == b"12"
        network.answer = silence
        with pytest.raises(TimeoutError, match="no reply from pool"):
            await pool.exchange(b"2\n", read_line, timeout=3)
        network.peers[-1].push(b"2\n")
        network.answer = bytes
        await settle()
        assert await pool.exchange(b"3\n", read_line, retry=Retry(1)) == b"3"
        with pytest.raises(TypeError, match="retry"):
            await pool.exchange(b"4\n", read_line, retry=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"pipeline": 0}, ValueError),
        ({"pipeline": math.inf}, TypeError),
        ({"pipeline": 2.0}, TypeError),
        ({"pipeline": True}, TypeError),
        ({"pipeline": 2, "one_way": True}, ValueError),
        ({"stall_timeout": 0}, ValueError),
        ({"stall_timeout": -1}, ValueError),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    """When the pool is made."""
    with pytest.raises(error):
        ConnectionPool(("localhost", 1), **settings)


async def test_shared_connections_live_with_all_hooks_and_spares() -> None:
    """A session for read, resets after each sharing, checks after a rest, spares beside it."""
    network = MemoryNetwork()
    calls: list[str] = []

    async def log_in(connection: PooledConnection[Any]) -> str:
        calls.append("on_connect")
        return "session"

    def noting(name: str) -> Callable[[PooledConnection[Any]], Any]:
        async def hook(connection: PooledConnection[Any]) -> None:
            calls.append(name)
            assert await connection.send_receive_line(b"hook") == b"hook"

        return hook

    async def read(connection: PooledConnection[str]) -> tuple[str, bytes]:
        return connection.session, await connection.receive_line()

    async with ConnectionPool(
        network,
        max_size=1,
        min_idle=1,
        pipeline=8,
        on_connect=log_in,
        check=noting("check"),
        check_after=10,
        on_release=noting("on_release"),
        max_idle_time=100,
    ) as pool:
        await pool.wait_ready()
        assert await pool.exchange(b"1\n", read) == ("session", b"1")
        await settle()
        await anyio.sleep(20)
        assert await pool.exchange(b"2\n", read) == ("session", b"2")
        await settle()
        assert calls == ["on_connect", "on_release", "check", "on_release"]
        await anyio.sleep(150)
        assert pool.statistics().closed["max_idle_time"] == 1
        assert pool.statistics().idle == 1


async def test_what_is_given_up_before_it_is_sent_leaves_nothing_behind() -> None:
    """Another request in the same turn begins to share the connection anew, and gives it back."""
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        await fill(pool, 1)
        # On trio it is by chance who runs first in a turn.
        for _ in range(100):
            outcomes: Outcomes = {}
            async with create_task_group() as tasks:
                callers = Callers(pool, tasks)
                callers.outcomes = outcomes
                tasks.start_soon(callers.one, b"1")
                while pool.statistics().in_flight == 0:
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                callers.scopes[b"1"].cancel()
                tasks.start_soon(callers.one, b"2")
            assert outcomes[b"2"] == b"2"
            async with pool.acquire(timeout=1):
                pass
        await check_books(pool, network)


async def test_the_time_that_read_functions_take_is_no_stall() -> None:
    """What has come already waits for them, however many there are."""
    network = quiet_network()

    async def read_slowly(connection: PooledConnection[Any]) -> bytes:
        line = await connection.receive_line()
        await anyio.sleep(4)
        return line

    async def hang(connection: PooledConnection[Any]) -> None:
        await anyio.sleep_forever()

    settings: dict[str, Any] = {"max_size": 1, "pipeline": 8, "stall_timeout": 10}
    async with ConnectionPool(network, **settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(b"1", b"2", b"3", b"4", read=read_slowly)
        network.peers[0].push(b"1\n2\n3\n4\n")
        await anyio.sleep(17)
        assert callers.outcomes == {line: line for line in (b"1", b"2", b"3", b"4")}
        # A read function that hangs is no excuse.
        await callers.ask(b"5", read=hang)
        await anyio.sleep(11)
        text = str(callers.outcomes[b"5"])
        assert "hang neither received anything nor ended within stall_timeout, 10 s" in text


@pytest.mark.usefixtures("on_asyncio")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_the_block_ends_although_a_task_that_closes_was_cancelled_before_it_began() -> None:
    """The tasks that wait for requests on its connection end, too."""
    network = MemoryNetwork()
    # AnyIO ends its task group for that, and the pool says so where cancellations are counted.
    with pytest.raises(PoolClosed if sys.version_info >= (3, 11) else asyncio.CancelledError):
        async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
            assert await pool.send_receive_line(b"1") == b"1"
            before = asyncio.all_tasks()
            pool.retire()
            assert [task.cancel() for task in asyncio.all_tasks() - before] == [True]
            await settle()
    assert network.open_now == 0
    # The coroutine of the task goes away, of which Python warns.
    gc.collect()
