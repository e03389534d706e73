"""MQTT's packets as a frame format: a byte for the type, a length of one to four bytes, a body.

Run ``python examples/mqtt_packets.py``. The server is part of it and knows only what is needed
here; a broker that listens without TLS and login, such as Mosquitto, answers the same. The numbers
of sections are those of MQTT 3.1.1.
"""

from typing import NamedTuple

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream, PooledConnection

CONNECT, CONNACK, PUBLISH_ONCE, PUBACK = 0x10, 0x20, 0x32, 0x40

# Protocol name and level, a clean session, no keep-alive, no client identifier (section 3.1).
HELLO = b"\x00\x04MQTT\x04\x02\x00\x00\x00\x00"


class Packet(NamedTuple):
    """A control packet: the byte with its type and flags, and all that follows the length."""

    kind: int
    body: bytes


class Packets:
    """MQTT's control packets (section 2.2), a format of frames that are objects."""

    def encode(self, packet: Packet) -> bytes:
        """Put the type and the length before the body."""
        head = bytearray([packet.kind])
        rest = len(packet.body)
        # Seven bits a byte, the lowest first; the eighth bit says that another byte follows.
        while rest > 0x7F:
            head.append(rest & 0x7F | 0x80)
            rest >>= 7
        head.append(rest)
        if len(head) > 5:
            raise ValueError(f"a body of {len(packet.body)} bytes is too large for MQTT")
        return bytes(head) + packet.body

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[Packet, int] | None:
        """Return the next packet and where it ends; None if bytes are missing."""
        size = 0
        for count, byte in enumerate(buffer[start + 1 : start + 5]):
            size |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                body = start + 2 + count
                if body + size > len(buffer):
                    return None
                return Packet(buffer[start], buffer[body : body + size]), body + size
        if len(buffer) >= start + 5:
            raise ValueError("the length of a packet has four bytes at most")
        return None


PACKETS = Packets()


async def answer(accepted: SocketStream) -> None:
    """Serve one client, until it is gone or sends what is not MQTT."""
    async with FramedStream(accepted) as stream:
        try:
            while True:
                kind, body = await stream.receive_frame(PACKETS)
                if kind == CONNECT:
                    await stream.send_frame(Packet(CONNACK, b"\x00\x00"), PACKETS)
                elif kind == PUBLISH_ONCE:
                    topic_end = 2 + int.from_bytes(body[:2], "big")
                    number, message = body[topic_end : topic_end + 2], body[topic_end + 2 :]
                    print(f"server: {body[2:topic_end].decode()}: {len(message)} bytes")
                    await stream.send_frame(Packet(PUBACK, number), PACKETS)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            pass  # it hung up, perhaps in the middle of a packet, or has reset the connection
        except (ValueError, anyio.DelimiterNotFound) as error:
            print("server: hanging up:", error)


async def say_hello(connection: PooledConnection) -> None:
    """Begin a session on a new connection (sections 3.1 and 3.2)."""
    reply = await connection.send_receive_frame(Packet(CONNECT, HELLO), PACKETS)
    if reply != (CONNACK, b"\x00\x00"):
        raise ValueError(f"the broker refuses: {reply}")


async def publish(pool: ConnectionPool, topic: str, message: bytes) -> None:
    """Publish a message, and wait until the broker has it (sections 3.3 and 3.4)."""
    name = topic.encode()
    number = b"\x00\x01"  # one message at a time is under way on a connection
    body = len(name).to_bytes(2, "big") + name + number + message
    reply = await pool.send_receive_frame(Packet(PUBLISH_ONCE, body), PACKETS, timeout=5)
    print(topic, "is published" if reply == (PUBACK, number) else f"is refused: {reply}")


async def main() -> None:
    """Start the server, and publish messages whose lengths take one, two and three bytes."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, answer)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        async with ConnectionPool(address, on_connect=say_hello) as pool:
            await publish(pool, "door", b"open")
            await publish(pool, "picture", bytes(10_000))
            await publish(pool, "film", bytes(40_000))
            print("connections opened:", pool.statistics().opened)
        server.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
