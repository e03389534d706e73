"""How messages are separated on the wire: by lines, by packages, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

from anyconnpool import ConnectionPool, FramedStream, PackageFormat

#: longest line or raw message that is sent, and longest line that is accepted, in bytes
MAX_LINE_BYTES = 1_048_576
#: largest package, whatever its header can express, in bytes: a peer must not fill the memory
MAX_PACKAGE_BYTES = 16_777_215

FORMATS = ("line", "package", "raw")
#: what ends a line, by its name
NEWLINES = {"lf": b"\n", "crlf": b"\r\n"}


@dataclass(frozen=True)
class Framing:
    """One of ``FORMATS``, with what it needs to know.

    :ivar format: its name
    :ivar package_format: of packages
    :ivar reply_bytes: length of a raw reply in bytes; ``None`` means until the line falls silent
    :ivar reply_as_sent: whether a raw reply is as long as its message instead
    :ivar newline: what ends a line
    :ivar greeting: whether a server sends a message to each who connects, before it is asked
    """

    format: str
    package_format: PackageFormat
    reply_bytes: int | None = None
    reply_as_sent: bool = False
    newline: bytes = NEWLINES["lf"]
    greeting: bool = False

    async def receive_greeting(self, stream: FramedStream) -> bytes:
        """Receive what a server sends before it is asked; if raw, until the line falls silent."""
        return await (stream.receive_available() if self.format == "raw" else self.receive(stream))

    async def skip_greeting(self, stream: FramedStream) -> None:
        """Receive the greeting, if there is one."""
        if self.greeting:
            await self.receive_greeting(stream)

    async def exchange(
        self, stream: FramedStream | ConnectionPool, message: bytes, timeout: float | None = None
    ) -> bytes:
        """Send a message and receive the reply.

        :param timeout: limit for both together, in seconds
        """
        if self.format == "line":
            return await stream.send_receive_line(message, newline=self.newline, timeout=timeout)
        if self.format == "package":
            return await stream.send_receive_package(message, self.package_format, timeout=timeout)
        size = len(message) if self.reply_as_sent else self.reply_bytes
        return await stream.send_receive(message, size, timeout=timeout)

    async def receive_reply(self, stream: FramedStream, message: bytes) -> bytes:
        """Receive the reply to a message, whose end is known.

        :param message: what was sent
        """
        if self.format != "raw":
            return await self.receive(stream)
        size = len(message) if self.reply_as_sent else self.reply_bytes
        assert size is not None
        return await stream.receive_exactly(size)

    async def receive(self, stream: FramedStream) -> bytes:
        """Receive a message of a client."""
        if self.format == "line":
            return await stream.receive_line(newline=self.newline)
        if self.format == "package":
            return await stream.receive_package(self.package_format)
        return await stream.receive()

    def pack(self, message: bytes) -> bytes:
        """Return a message as it goes over the wire."""
        if self.format == "line":
            return message + self.newline
        return self.package_format.pack(message) if self.format == "package" else message

    def check_message(self, message: bytes) -> None:
        """Refuse a message that can't be sent.

        :raises ValueError: if it can't
        """
        if self.format == "line" and b"\n" in message:
            raise ValueError("a line can't contain a newline: send it with --format package or raw")
        if self.format != "package" and len(message) > MAX_LINE_BYTES:
            raise ValueError(
                f"a {self.format} message has {MAX_LINE_BYTES} bytes at most, not {len(message)}"
            )
        if self.format == "package" and len(message) > self.package_format.max_size:
            raise ValueError(
                f"a package with a header of {self.package_format.header_size} bytes has "
                f"{self.package_format.max_size} bytes at most, not {len(message)}"
            )
        if self.format == "raw" and not message:
            raise ValueError("there is nothing to send: a raw message has at least one byte")


def package_format(header_size: int) -> PackageFormat:
    """Return the format of packages with such a header, in bytes."""
    return PackageFormat(header_size, max_size=min(256**header_size - 1, MAX_PACKAGE_BYTES))
