"""The tasks of one shared connection: they send its requests, and read its replies.

Each connection that is or was shared has up to two of them. Whichever finds requests that nobody
sends becomes the writer; whichever finds that replies are owed and nobody reads becomes the reader;
then it waits until it is woken. In the good case one task does both: it sends all that the callers
of one turn of the event loop have asked for, and receives what comes back. The other one wakes up
when requests come while replies are read, or when the peer doesn't take what is sent: so sending
never stops the reading.

Both belong to the pool, which alone cancels them, when it closes the connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol

from anyio import BrokenResourceError, CancelScope, get_cancelled_exc_class

from anyconnpool._core.pipeline import Lane, Place
from anyconnpool._core.replica_rules import ReplicaRules
from anyconnpool._core.sharing import Sharing
from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.event_loop import Signal
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.reading import SharedConnection, start_read
from anyconnpool._engine.replay import Attempt
from anyconnpool._engine.replicas import break_off, note_answer
from anyconnpool._engine.spawning import PoolTasks
from anyconnpool._engine.time_limits import TimeLimit
from anyconnpool._exceptions import FrameCut, FrameTooLong, PoolError
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._streams.transport import Transport
from anyconnpool._util.cancellation import ends_program, fence
from anyconnpool._util.contexts import RestInContext
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.functions import describe_function
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import Liveness
from anyconnpool._util.log import describe_error, describe_with_cause


class Pipelining(Protocol):
    """What the tasks need of those who look after all shared connections of a pool."""

    sharing: Sharing[Transport]
    leasing: Leasing
    tasks: PoolTasks
    now: Callable[[], float]
    new_signal: Callable[[], Signal]
    replicas: ReplicaRules[Transport] | None

    def note_begin(self, lane: Lane[Transport]) -> None:
        """Take note that exchanges begin to share a connection."""

    def keep_watch(self, lane: Lane[Transport]) -> None:
        """See to it that a connection which owes replies is closed if it stalls."""

    def limit(self, place: SharedExchange) -> None:
        """See to it that the time of an exchange is up when it is, to wait or for all of it."""

    def time_is_up(self, place: SharedExchange) -> None:
        """Let an exchange go on no longer, unless only its time to wait for a place is over."""


class SharedExchange(Place[Transport]):
    """An exchange on a shared connection: its place, and how its caller gets the reply.

    :param owner: the exchanges of the pool
    :param signal: wakes the caller
    :param exchange: what is sent, and what reads the reply
    :param attempt: where to note how far it has come, should it fail
    """

    __slots__ = (
        "attempt",
        "began",
        "context",
        "ends_at",
        "exchange",
        "limit",
        "owner",
        "patience",
        "reply",
    )

    def __init__(
        self, owner: Pipelining, signal: Signal, exchange: Exchange[Any], attempt: Attempt | None
    ) -> None:
        # What the classes above do, without a call for each: there is one of these an exchange.
        self.wake, self.request = signal.set, exchange.request
        self.entry = self.error = self.failing_since = self.task = self.seen_at = self.lane = None
        self.shares_error = self.warned = self.sent = self.abandoned = False
        self.number = self.failures = self.floor = self.moves = 0
        self.owner = owner
        #: when it was asked for
        self.began = owner.now()
        self.exchange = exchange
        self.attempt = attempt
        #: the variables of the caller, if code of the caller's reads the reply
        self.context: Context | None = None if exchange.read is None else copy_context()
        self.reply: Any = None
        self.limit: TimeLimit | None = None
        #: when its time is up, and how long it may wait for a place, in seconds
        self.ends_at = self.patience = math.inf

    def note_failure(
        self,
        entry: PoolEntry[Transport],
        *,
        reused: bool,
        received: int = 0,
        connection_failed: bool = True,
    ) -> None:
        """Note how far it has come on a connection, before it is repeated maybe."""
        attempt = self.attempt
        if attempt is not None:
            attempt.connection_failed, attempt.reused = connection_failed, reused
            attempt.has_sent, attempt.bytes_received = self.sent, received
            attempt.replica = entry.replica

    def succeed(self, reply: object) -> None:
        """Give the caller the reply."""
        self.lane = None
        if not self.abandoned:
            self.reply = reply
            self.wake()

    def fail(self, error: Exception) -> None:
        """Give the caller an error of his own."""
        self.lane = None
        if not self.abandoned:
            self.error = error
            self.wake()

    def wait_again(self) -> None:
        """Take note that it has lost its place, and waits for another one from now on."""
        self.owner.limit(self)

    def interrupt(self, error: Exception) -> None:
        """Take note that the time is up.

        :param error: what a stream would raise, which knows nothing of places
        """
        self.owner.time_is_up(self)


class LaneTasks:
    """Send what requests share a connection, and read their replies.

    :param pipelines: the exchanges of the pool
    :param lane: the connection with its requests
    """

    def __init__(self, pipelines: Pipelining, lane: Lane[Transport]) -> None:
        self._pipelines = pipelines
        self._sharing = pipelines.sharing
        self._now = pipelines.now
        self.lane = lane
        #: whether somebody is about to look for requests
        self.stirred = False
        self._is_begun = self._writing = self._reading = self._ended = False
        #: whether sending has failed
        self._cut = False
        self._parked: list[Signal] = []
        self._scopes: list[CancelScope] = []
        self._count = 0
        # Replies that were read and not yet counted, and those of them that nobody waited for.
        self._read_count = self._dropped = 0
        # How many bytes had been read before the reply that is being read.
        self._read_before = 0
        entry = lane.entry
        self.connection = SharedConnection(
            pipelines.leasing, entry, self._count_replies, self._hear
        )

    def note_failure(self, error: Exception) -> None:
        """Take note that one of several replicas has not answered, if the connection is new."""
        lane, entry = self.lane, self.lane.entry
        if entry.replica is None or self.connection.bytes_received:
            return
        # New is one on which all that was ever asked for is in flight now, or has just failed.
        if entry.borrows <= lane.load:
            break_off(self._pipelines.replicas, entry, error, self._now())

    def note_timeout(self, place: SharedExchange, error: Exception) -> None:
        """Take note that an exchange is out of time that was sent."""
        self.note_failure(error)
        lane = self.lane
        silent = self.connection.bytes_received == place.floor
        if silent and lane.is_shared and lane.entry.replica is not None:
            # Another replica may answer those that come.
            self._sharing.note_silence(lane, self._now())

    def note_loss(self) -> None:
        """Close or give back the connection if nobody waits for what is in flight on it."""
        lane, leasing = self.lane, self._pipelines.leasing
        self._count_replies()
        if not lane.is_shared:
            return
        if not (lane.load or self._writing or self._reading):
            self._finish()
        elif self._sharing.pipeline.is_abandoned(lane):
            replicas = self._pipelines.replicas
            # Where a replica does not answer, the replies may never come.
            hangs = replicas is not None and (lane.is_mute or replicas.is_stale(lane.entry))
            if hangs or not leasing.running:
                # Not as one that is good: a farewell would get what is owed to those who gave up.
                self.end(CloseReason.UNCLEAN, leasing.closed_error)

    def received_for(self, place: SharedExchange) -> int:
        """Return how many bytes of a reply have come, if it is the next one to be read."""
        owed = self.lane.owed
        if not (self._reading and owed and owed[0] is place):
            return 0
        return self.connection.bytes_received - self._read_before

    def end_stalled(self, seconds: float) -> None:
        """Close the connection, unless the event loop was too busy to receive what has come.

        :param seconds: for how long nothing was heard
        """
        if self.connection.is_waiting and self.lane.entry.look() is Liveness.UNREAD:
            self._hear()
            return
        place = self.lane.owed[0] if self._reading and self.lane.owed else None
        read = place.exchange.read if isinstance(place, SharedExchange) else None
        if read is None or self.connection.is_waiting:
            self.note_failure(TimeoutError())
            why = "not one byte of the replies that are owed came"
        else:
            why = f"the read function {describe_function(read)} neither received anything nor ended"
        why += f" within stall_timeout, {seconds:g} s"
        self._break(CloseReason.UNCLEAN, BrokenResourceError(f"{why}: the connection was closed"))

    def wake(self) -> None:
        """See to it that the requests are sent soon."""
        if not self._is_begun:
            self._is_begun = True
            self._pipelines.note_begin(self.lane)
        if not self._writing:
            self.stirred = True
            self._wake_one()

    def _wake_one(self) -> None:
        if self._parked:
            self._parked.pop().set()
        elif self._count < 2:
            self._count += 1
            pool, transport = self._pipelines.leasing.settings.name, self.lane.entry.transport
            name = f"pool {pool!r}: exchanges that share {transport}"
            self._pipelines.tasks.start_soon(name, self._work)

    def stop(self) -> None:
        """End the tasks, wherever they are: the connection is not the pool's any more."""
        self._ended = True
        for scope in self._scopes:
            scope.cancel()

    @defer_interrupts
    async def _work(self) -> None:
        # Shielded: it goes on until the pool stops it, however long a body that shields itself goes
        # on in a cancelled block.
        with CancelScope(shield=True) as scope:
            self._scopes.append(scope)
            try:
                while not self._ended:
                    self.stirred = False
                    if self.lane.unsent and not self._writing:
                        await self._write()
                    elif self.lane.owed and not self._reading:
                        await self._read()
                    elif self._is_begun and not (self._writing or self._reading):
                        self._finish()
                    else:
                        await self._park()
            except Exception as error:
                # Code of the user's that is asked about an exception, for example.
                self._break_for_failure(error)
            except BaseException as error:
                # A cancellation comes from a scope when it was stopped; else natively.
                if self._ended and isinstance(error, get_cancelled_exc_class()):
                    raise
                if ends_program(error):
                    # The other task must not go on with what this one was reading.
                    self._break(CloseReason.UNCLEAN, BrokenResourceError("the program ends"))
                self._fail_natively(error)
            finally:
                self._scopes.remove(scope)
                self._count -= 1

    def _fail_natively(self, error: BaseException) -> None:
        try:
            with fence("a task of the pool", BrokenResourceError):
                raise error
        except BrokenResourceError as failure:
            # One that waited for work on a connection that others use now has nothing to break.
            self._break(CloseReason.UNCLEAN, failure)

    async def _park(self) -> None:
        signal = self._pipelines.new_signal()
        self._parked.append(signal)
        try:
            # Cancelled here, it owns nothing.
            await signal.wait()
        except BaseException:
            if signal in self._parked:
                self._parked.remove(signal)
            raise

    async def _write(self) -> None:
        """Send batches until no request is left."""
        lane = self.lane
        self._writing = True
        try:
            while lane.unsent and not self._ended:
                if not lane.owed and self._refuse_unasked():
                    return
                batch = self._sharing.take_batch(lane, self.connection.bytes_received, self._now())
                self._pipelines.keep_watch(lane)
                await self._send(b"".join([place.request for place in batch]))
        except Exception:
            # What has arrived is still read, up to the end, which will come now.
            self._cut = True
            if not self._ended:
                self._sharing.move_unsent(lane, self._now())
        finally:
            self._writing = False

    async def _send(self, data: bytes) -> None:
        stream = self.lane.entry.transport.own
        rest = None
        if stream is not None:
            rest = stream.begin_to_send(data)
            if rest is None:
                return
        # From here on the peer may not read before its replies are read.
        if not self._reading:
            self._wake_one()
        # Cancelled here, the connection is closed: the tasks are cancelled for no other reason.
        self.lane.is_blocked = True
        try:
            await (self.lane.entry.transport.stream.send(data) if rest is None else rest)
        finally:
            self.lane.is_blocked = False

    def _refuse_unasked(self) -> bool:
        """Close the connection if it has ended, or something has come that nobody asked for."""
        entry, connection = self.lane.entry, self.connection
        if connection.has_unread or not connection.is_sound:
            liveness = Liveness.UNREAD
        elif entry.tells and not entry.noticed and entry.borrows > self.lane.load:
            # Of a connection that nobody has used, what it told before it was lent is forgotten.
            return False
        else:
            liveness = entry.look()
            entry.noticed = False
        reason = entry.fault(liveness)
        if reason is None:
            return False
        if reason is CloseReason.UNREAD_DATA:
            why = "the server had sent something that nobody asked for; if it greets, receive that "
            why += "in on_connect"
        else:
            why = "the peer has closed the connection"
            self.note_failure(BrokenResourceError(why))
        self._break(reason, BrokenResourceError(why))
        return True

    async def _read(self) -> None:
        """Read replies until none is owed."""
        owed = self.lane.owed
        self._reading = True
        try:
            while owed and not self._ended:
                place = owed[0]
                assert isinstance(place, SharedExchange)
                if place.exchange.finds_replies and self._take_buffered():
                    continue
                connection = self.connection
                before = self._read_before = connection.consumed
                if before < place.floor:
                    self._break_for_unasked()
                    return
                try:
                    if place.context is not None:
                        reply = await self._call(place, connection)
                    else:
                        reply = await place.exchange.receive(connection)
                except BaseException as error:
                    if self._ended:
                        raise
                    if not self._survive(place, error, before):
                        return
                else:
                    self._take_out(place)
                    place.succeed(reply)
                    # Kept here, it would be kept until the next one has come.
                    del reply
                    if not connection.is_sound or self.connection.consumed == before:
                        self._break_for_misuse(place)
                        return
        finally:
            self._reading = False

    def _take_buffered(self) -> bool:
        """Give the first of those that are owed replies theirs, as far as these are buffered.

        That is the short way, which nearly all replies take: a call more for each would show.

        :return: whether there was any
        """
        owed, connection = self.lane.owed, self.connection
        data, position = connection.buffered
        first, offset = position, connection.bytes_received - len(data)
        while owed:
            place = owed[0]
            assert isinstance(place, SharedExchange)
            exchange = place.exchange
            if not exchange.finds_replies or offset + position < place.floor:
                break
            found = exchange.take(data, position)
            if found is None:
                break
            place.reply, position = found
            owed.popleft()
            self._read_count += 1
            place.lane = None
            if place.abandoned:
                self._dropped += 1
            else:
                place.wake()
        connection.move_to(position)
        return position > first

    async def _call(self, place: SharedExchange, connection: SharedConnection) -> object:
        """Have the caller's function read the reply, in the caller's context."""
        context, read = place.context, place.exchange.read
        assert context is not None
        assert read is not None
        try:
            try:
                coroutine, asked = context.run(start_read, read, connection)
            except StopIteration as stop:
                return stop.value
            self._count_replies()
            return await RestInContext(context, coroutine, asked)
        finally:
            # Whoever has kept it reads nothing with it any more.
            self.connection = connection.renew()

    def _take_out(self, place: SharedExchange) -> None:
        """Take out an exchange whose reply was read."""
        self.lane.owed.popleft()
        self._read_count += 1
        self._dropped += place.abandoned
        # The time that read functions take is not the peer's: what has come may wait for them.
        self.lane.heard_at = self._now()

    def _count_replies(self) -> None:
        """Let the state machine know of the replies that were read since the last time."""
        count, dropped = self._read_count, self._dropped
        if count:
            self._read_count = self._dropped = 0
            self._sharing.replied(self.lane, count, dropped, self._now())
            if not self._pipelines.leasing.running:
                self.note_loss()

    def _hear(self) -> None:
        lane = self.lane
        lane.heard_at = self._now()
        replica = lane.entry.replica
        if replica is not None and replica.failures:
            note_answer(self._pipelines.replicas, lane.entry, lane.heard_at)

    def _survive(self, place: SharedExchange, error: BaseException, before: int) -> bool:
        """Give a caller what reading the reply has raised; return whether the connection is good.

        :param before: how many bytes had been read before
        """
        if not isinstance(error, Exception):
            try:
                with fence("reading the reply", BrokenResourceError):
                    raise error
            except BrokenResourceError as failure:
                error = failure
        connection, lane = self.connection, self.lane
        self._count_replies()
        received = connection.bytes_received - before
        place.note_failure(
            lane.entry,
            reused=lane.entry.borrows > lane.load,
            received=received,
            connection_failed=not connection.is_sound,
        )
        self._take_out(place)
        place.fail(error)
        whole = connection.is_sound and connection.consumed > before
        if whole and isinstance(error, self._pipelines.leasing.settings.harmless):
            return True
        # Its traceback leads to the connection.
        stream_error, connection.stream_error = connection.stream_error, None
        if stream_error is not None:
            self.note_failure(stream_error)
        if stream_error is not None and connection.consumed == before and not connection.has_unread:
            self._break(CloseReason.UNCLEAN, stream_error)
        else:
            self._break_for_failure(error)
        return False

    def _break_for_failure(self, error: Exception) -> None:
        # The text of what a read function raises may quote the reply, which is another caller's.
        own = isinstance(error, (FrameCut, FrameTooLong, PoolError))
        text = describe_with_cause(error) if own else describe_error(error)
        why = f"the reply before this one could not be read: {text}"
        self._break(CloseReason.UNCLEAN, BrokenResourceError(why))

    def _break_for_misuse(self, place: SharedExchange) -> None:
        why = "the reply before this one was not read as a whole, or an operation on it had failed"
        self._break(CloseReason.UNCLEAN, BrokenResourceError(why))

    def _break_for_unasked(self) -> None:
        why = "the server has sent something that nobody asked for"
        self._break(CloseReason.UNREAD_DATA, BrokenResourceError(why))

    def _finish(self) -> None:
        """Give the connection back: nothing is in flight on it any more."""
        connection = self.connection
        if connection.has_unread:
            self._break_for_unasked()
        elif not connection.is_sound or self._cut:
            self._break(CloseReason.UNCLEAN, BrokenResourceError("an operation on it had failed"))
        else:
            count, dropped = self._read_count, self._dropped
            self._read_count = self._dropped = 0
            if self._sharing.replied(self.lane, count, dropped, self._now(), ends=True):
                # Whoever is about to look for requests finds that sharing has to begin again.
                self._is_begun = self.stirred = False
                connection.drop_chunk()
                self._pipelines.leasing.release(self.lane.entry, None)

    def _break(self, reason: CloseReason, error: Exception) -> None:
        """Close the connection; whoever waits for a reply gets an error of his own."""
        self.end(reason, lambda: copy_for_caller(error))

    def end(self, reason: CloseReason, make_error: Callable[[], Exception]) -> None:
        """Close the connection with requests in flight.

        :param reason: why
        :param make_error: makes an error for each caller
        """
        lane, leasing = self.lane, self._pipelines.leasing
        self._count_replies()
        if not lane.is_shared:
            return
        self.stop()
        for place in self._sharing.dissolve(lane, self._now()):
            assert isinstance(place, SharedExchange)
            place.note_failure(lane.entry, reused=lane.reused)
            # What could go nowhere else.
            refused = not (place.sent or leasing.running)
            place.fail(leasing.closed_error() if refused else make_error())
        leasing.release(lane.entry, reason)
