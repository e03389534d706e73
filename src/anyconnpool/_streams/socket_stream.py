"""What the pool asks of its own streams, beyond what AnyIO's streams do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from anyio import BrokenResourceError
from anyio.abc import SocketStream

from anyconnpool._streams.probes import LivenessAttribute
from anyconnpool._util.liveness import Liveness

#: Of so many operations that don't have to wait, less one, the last gives the other tasks a turn.
#: It is a bit mask. 256 operations made the others wait for 3 to 5 ms, 32 an eighth of that.
TURN_MASK: Final = 31

#: The texts of AnyIO's errors, which have none of their own.
ENDED: Final = "the peer has closed the connection"
CLOSED_HERE: Final = "this end has closed the connection: it can't be used any more"
EOF_SENT: Final = "send_eof() was called: nothing can be sent any more"


def broken_error(cause: BaseException | None) -> BrokenResourceError:
    """Make the error of a connection that is lost.

    :param cause: why, if that is known
    """
    why = f": {cause}" if cause is not None and str(cause) else ""
    return BrokenResourceError(f"the connection is lost{why}")


class PoolSocketStream(SocketStream):
    """A stream on a socket that can be looked at, notifies, and can be interrupted.

    Errors, half-close, backpressure and attributes are those of AnyIO's own socket streams. Every
    call is a cancellation point, and of 32 operations that find what they need at once, one gives
    the other tasks a turn. Only one task may send at a time, and one receive.
    """

    #: whether :attr:`on_event` is called
    tells: bool = False

    #: Called in the event loop's own turn when something arrives or ends while no receive waits
    #: for it: bytes, the peer's hang-up, the loss of the connection. It must not raise. trio keeps
    #: nothing in user space and never calls it. :meth:`aclose` sets it to None.
    on_event: Callable[[], object] | None = None

    @property
    def has_part_only(self) -> bool:
        """Whether all that is unread is a part of a record of TLS, which nobody can receive yet."""
        return False

    @abstractmethod
    def look(self) -> Liveness:
        """Say whether it is open and has nothing to read: exactly, and without waiting.

        A byte or a hang-up counts from the moment in which the kernel has it. Never raises.
        """

    async def send_at_once(self, data: bytes) -> None:
        """Send as :meth:`send` does, without asking whether the task is cancelled.

        For a caller that has just asked, and that shares the stream with nobody.

        :param data: the bytes
        """
        await self.send(data)

    def begin_to_send(self, data: bytes) -> Awaitable[None] | None:
        """Send as much as the kernel takes at once; for a caller that shares it with nobody.

        :param data: the bytes
        :return: what sends the rest when it is awaited, and must be; None if nothing is left
        """
        return self.send(data)

    @abstractmethod
    def interrupt(self, error: Exception) -> None:
        """Make the receive and the send under way, and every later one, raise an error.

        Each raises a copy of it, so that no two tasks share one.

        What has arrived and was not received is dropped. The stream stays open until
        :meth:`aclose`. Of several errors the first counts; a closed stream stays closed.

        :param error: what to raise
        """

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the socket, and its look, for those who wrap the stream."""
        return {**super().extra_attributes, LivenessAttribute.probe: lambda: self.look}
