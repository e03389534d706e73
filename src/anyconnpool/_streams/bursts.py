"""Reads that end with a silence, for protocols that don't say where a message ends."""

from __future__ import annotations

from functools import cached_property

from anyio import EndOfStream, move_on_after, sleep

from anyconnpool._core.states import Liveness
from anyconnpool._streams.buffered import TURN_MASK, ReadAheadStream
from anyconnpool._streams.probes import SocketProbe, plain_socket_probe
from anyconnpool._util.checks import check_duration, check_size

_BURST_BYTES = 1_048_576
# How often a line that should be silent is looked at, in seconds.
_LOOK_INTERVAL = 0.01


class BurstStream(ReadAheadStream):
    """A stream read ahead that can wait for silence."""

    async def receive_available(
        self, *, quiet: float = 0.001, max_bytes: int = _BURST_BYTES
    ) -> bytes:
        """Receive a burst: wait for the first bytes, then until the line falls silent.

        For protocols without frames, like gtcp's ``Recv(-1)``, whose 1 ms is the default. It can't
        tell a pause within a reply from its end.

        :param quiet: how long nothing may arrive for the burst to be over, in seconds
        :param max_bytes: return this many bytes at most; a surplus stays buffered
        :return: at least one byte
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        if self._position == len(self._data):
            await self._fill()
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

    async def drain(self, *, quiet: float = 0.5, max_bytes: int = _BURST_BYTES) -> bytes:
        """Throw away, and return, what is buffered and what arrives until the line is silent.

        Silence is not an error. The default is that of the question which asked for it: flush a
        socket with a read deadline of 500 ms.

        :param quiet: how long nothing may arrive, in seconds
        :param max_bytes: stop after this many bytes, whatever else there is
        :return: the bytes thrown away, maybe none
        :raises ~anyio.EndOfStream: if the peer closed and nothing had arrived
        :raises ValueError: if an argument is negative or NaN, or ``max_bytes`` less than 1
        """
        quiet = check_duration("quiet", quiet)
        check_size("max_bytes", max_bytes)
        self._check_open()
        self._turns += 1
        if not self._turns & TURN_MASK:
            await self._give_turn()
        await self._gather_burst(quiet, max_bytes)
        return self._take(max_bytes)

    async def _gather_burst(self, quiet: float, max_bytes: int) -> None:
        arrived = 0

        def complete(data: bytes | bytearray) -> bool:
            nonlocal arrived
            arrived = len(data)
            return arrived >= max_bytes

        async def next_chunk() -> bytes:
            try:
                return await self._receive_within(quiet)
            except EndOfStream:
                if not arrived:
                    raise
                return b""

        if not complete(self.buffer):
            await self._gather(complete, next_chunk)

    async def _receive_within(self, seconds: float) -> bytes:
        """Receive what arrives within some time; nothing if the line stays silent."""
        probe = self._silence_probe()
        if probe is not None:
            return await self._receive_if_arrived(probe, seconds)
        with move_on_after(seconds):
            return await self._receive_chunk()
        self._unfinished -= 1
        self._cut_short = True
        return b""

    async def _receive_if_arrived(self, probe: SocketProbe, seconds: float) -> bytes:
        # No receive is cancelled: what arrives meanwhile stays in the kernel.
        self._unfinished += 1
        while seconds > 0 and probe() is Liveness.ALIVE:
            await sleep(min(seconds, _LOOK_INTERVAL))
            seconds -= _LOOK_INTERVAL
        self._unfinished -= 1
        return b"" if probe() is Liveness.ALIVE else await self._receive_chunk()

    def _silence_probe(self) -> SocketProbe | None:
        """Return a probe that can tell silence without receiving, if there is one."""
        # Before its first receive, AnyIO may be reading an accepted stream into its own queue.
        return self._plain_probe if self._bytes_received else None

    @cached_property
    def _plain_probe(self) -> SocketProbe | None:
        return plain_socket_probe(self._stream)
