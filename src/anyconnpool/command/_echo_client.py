"""The command ``echo-client``: send messages through a pool and print the replies."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import sleep, wait_readable

from anyconnpool import ConnectionPool
from anyconnpool.command._framing import MAX_PACKAGE_BYTES, Framing
from anyconnpool.command._hints import Attempt
from anyconnpool.command._output import write_reply
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError, reason
from anyconnpool.command._run import INTERRUPTED, run
from anyconnpool.command._target import Target

_CHUNK = 65_536
# Before a descriptor that has nothing after all is read again, in seconds.
_PAUSE = 0.01


@dataclass(frozen=True)
class EchoClient:
    """An echo client.

    :ivar target: the server
    :ivar messages: what to send; if there is nothing, the lines of standard input
    :ivar framing: how messages are separated
    :ivar timeout: limit for one exchange, connecting included, in seconds
    :ivar backend: on which event loop
    """

    target: Target
    messages: Sequence[bytes]
    framing: Framing
    timeout: float
    backend: str

    def run(self) -> int:
        """Send one message after the other.

        :return: the program's exit code
        :raises CommandError: if an exchange fails
        """
        return INTERRUPTED if run(self.backend, self._talk) else 0

    async def _talk(self) -> None:
        attempt = Attempt(self.framing)
        greet = attempt.receive_greeting if self.framing.greeting else None
        async with self.target.pool(max_size=1, timeout=self.timeout, greet=greet) as pool:
            if self.messages:
                for message in self.messages:
                    await self._exchange(pool, attempt, message)
                return
            lines = StandardInput()
            while (line := await lines.next_line()) is not None:
                # The lines of a file may end with \r\n already.
                message = line.removesuffix(self.framing.newline[:-1])
                await self._exchange(pool, attempt, message)

    async def _exchange(self, pool: ConnectionPool, attempt: Attempt, message: bytes) -> None:
        # Where an exchange went well, neither TLS nor the format is to blame for what follows.
        is_first = not pool.statistics().acquired
        try:
            self.framing.check_message(message)
            reply = await pool.run(attempt.exchange, message, timeout=self.timeout)
        except EXCHANGE_ERRORS as error:
            failure = f"{self.target}: {reason(error)}"
            if is_first:
                failure = await attempt.explain(self.target, error)
            raise CommandError(failure) from error
        except ValueError as error:
            raise CommandError(str(error), 2) from error
        finally:
            # Not in the hook, where a reader that has gone away would look like the server's fault.
            for greeting in attempt.take_greetings():
                write_reply(greeting)
        write_reply(reply)


class StandardInput:
    """The lines of standard input, read so that waiting for one can be cancelled."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        mode = os.fstat(self._fd).st_mode
        # Event loops refuse to wait for files, which are always readable.
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._fd)
        self._buffer = b""
        self._ended = False

    async def next_line(self) -> bytes | None:
        """Return the next line without its end, or nothing if there is none.

        :raises CommandError: if it can't be read, or is longer than any message
        """
        while b"\n" not in self._buffer and not self._ended:
            if len(self._buffer) > MAX_PACKAGE_BYTES:
                text = f"a line of standard input has more than {MAX_PACKAGE_BYTES} bytes"
                raise CommandError(text, 2)
            chunk = await self._read()
            self._buffer += chunk
            self._ended = not chunk
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def _read(self) -> bytes:
        while True:
            if self._waits:
                await wait_readable(self._fd)
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:
                # Another program that shares it was faster.
                await sleep(_PAUSE)
            except OSError as error:
                raise CommandError(f"can't read standard input: {reason(error)}") from error
