"""What a load sends: fields of templates, and what is refused of them."""

from __future__ import annotations

import pytest

from anyconnpool.command._payload import Payload, from_hex, parse_template
from tests.cases import table


@table(
    "template, messages",
    [
        (b"GET {n}", [b"GET 0", b"GET 1", b"GET 2"]),
        (b"{n:03}|{n}", [b"000|0", b"001|1"]),
        (b"{n:u8}{n:u16}{n:u32le}{n:u64}", [bytes(15), b"\1\0\1\1\0\0\0" + bytes(7) + b"\1"]),
        (b"{length:u16}hello", [b"\0\5hello"] * 2),
        # What follows counts, fields included.
        (b"{length:u16}{length:03}{n}", [b"\0\4" + b"0010", b"\0\4" + b"0011"]),
        (b"{{n}} }}", [b"{n} }"]),
        (b"\xff\x00{n}\n", [b"\xff\x000\n"]),
        (b"", [b""]),
    ],
)
def test_templates(template: bytes, messages: list[bytes]) -> None:
    """Each message has the number of its request, and the lengths that it has itself."""
    payload = parse_template(template, bytes)
    assert [payload.make() for _ in messages] == messages


def test_numbers_that_are_too_large() -> None:
    """A number loses the digits that its field has no room for, so that messages stay alike."""
    payload = parse_template(b"{n:u8} {n:01}", bytes)
    made = [payload.make() for _ in range(258)]
    assert made[257] == b"\1 7"


def test_random_fields() -> None:
    """Random fields have their length, differ, and digits are digits."""
    payload = parse_template(b"{digits:12}/{bytes:12}", bytes)
    made = {payload.make() for _ in range(20)}
    assert len(made) == 20
    for message in made:
        digits, _, rest = message.partition(b"/")
        assert len(digits) == len(rest) == 12
        assert digits.isdigit()


@table(
    "template, size, longest",
    [
        (b"abc", 3, 3),
        (b"{n:05}{n:u32}{digits:3}{bytes:7}{length:u16}", 21, 21),
        (b"a{n}", None, 21),
    ],
)
def test_sizes(template: bytes, size: int | None, longest: int) -> None:
    """It is known how long the messages are, or how long they may be."""
    payload = parse_template(template, bytes)
    assert payload.size == size
    assert len(payload.longest()) == longest


def test_what_is_binary() -> None:
    """Fields that may hold any byte are known."""
    for template in (b"{n:u32}", b"{bytes:1}", b"{length:u8}"):
        assert parse_template(template, bytes).is_binary
    for template in (b"{n}", b"{n:04}", b"{digits:3}", b"\xff"):
        assert not parse_template(template, bytes).is_binary


@table(
    "template, byte",
    [
        (b"a{", 2),
        (b"a}b", 2),
        (b"{secret}", 1),
        (b"{n:}", 1),
        (b"{n:8}", 1),
        (b"{n:u24}", 1),
        (b"{n:00}", 1),
        (b"{n:021}", 1),
        (b"{length}", 1),
        (b"{digits}", 1),
        (b"{digits:0}", 1),
        (b"{digits:1001}", 1),
        (b"{digits:99999999999}", 1),
        (b"{bytes:0x10}", 1),
        (b"{bytes:16777216}", 1),
        (b'ok {n} {"password": 1}', 8),
    ],
)
def test_what_is_no_template(template: bytes, byte: int) -> None:
    """It is told where it is wrong, without a word of it."""
    with pytest.raises(ValueError, match=f"^byte {byte} begins no field of a template: ") as raised:
        parse_template(template, bytes)
    assert "secret" not in str(raised.value)
    assert "password" not in str(raised.value)


def test_fields_that_fill_the_memory() -> None:
    """Many large fields are refused together, before any is made."""
    with pytest.raises(ValueError, match="16777215 bytes at most"):
        parse_template(b"{bytes:9000000}" * 2, bytes)


def test_hexadecimal_digits() -> None:
    """Digits may be parted by spaces; what is none is refused without being quoted."""
    assert from_hex(b"dead BE ef\n") == b"\xde\xad\xbe\xef"
    assert parse_template(b"00{n:u8}ff", from_hex).make() == b"\0\0\xff"
    for wrong in (b"0", b"secret", b"\xff\xff"):
        with pytest.raises(ValueError, match="pairs of hexadecimal digits") as raised:
            from_hex(wrong)
        assert raised.value.__suppress_context__
        assert "secret" not in str(raised.value)


def test_a_payload_that_stays_the_same() -> None:
    """It is made once."""
    payload = Payload([b"a", b"b"])
    assert payload.make() is payload.make()
    assert payload.make() == b"ab"
