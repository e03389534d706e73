"""The options of each command, and what ``-h`` says about them."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction

from anyconnpool.command import _values as values
from anyconnpool.command._completion import (
    SHELLS,
    PrintAndEnd,
    completes_files,
    completion_text,
    version_text,
)
from anyconnpool.command._framing import FORMATS, NEWLINES
from anyconnpool.command._run import BACKENDS

_PAYLOAD_BYTES = 64
_URL_FORMS = "tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH"


def add_general(parser: ArgumentParser) -> None:
    """Add what can be asked for without a command."""
    parser.add_argument(
        "--version", action=PrintAndEnd, nargs=0, text=version_text, help="print the version"
    )
    parser.add_argument(
        "--print-completion",
        action=PrintAndEnd,
        text=completion_text,
        choices=SHELLS,
        help="print what lets a shell complete commands and options",
    )


def add_server(parser: ArgumentParser) -> None:
    """Add the options of the echo server."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=values.port,
        default=8999,
        help="port to listen on, 0 for any free one (default: %(default)s)",
    )
    completes_files(
        parser.add_argument("--unix", metavar="PATH", help="listen on a UNIX socket instead")
    )
    _add_format(parser)
    parser.add_argument(
        "--delay",
        type=values.delay,
        default=0.0,
        metavar="SECONDS",
        help="wait before each reply, as if there was work to do (default: 0)",
    )
    for name, help_text in (
        ("--tls-cert", "speak TLS with this certificate (PEM)"),
        ("--tls-key", "its key, if it is not in the same file"),
    ):
        completes_files(parser.add_argument(name, metavar="FILE", help=help_text))
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell who connects, and what each one sends"
    )
    _add_backend(parser)


def add_client(parser: ArgumentParser) -> None:
    """Add the options of the echo client."""
    parser.add_argument("url", metavar="URL", type=values.url, help=f"the server: {_URL_FORMS}")
    _add_target(parser)
    parser.add_argument(
        "messages",
        metavar="MESSAGE",
        nargs="*",
        help="what to send, one exchange each (default: the lines of standard input)",
    )
    _add_format(parser)
    _add_replies(parser, "until the line is silent for 1 ms")
    _add_backend(parser)


def add_load(parser: ArgumentParser) -> None:
    """Add the options of the load."""
    parser.add_argument(
        "urls",
        metavar="URL",
        type=values.url,
        nargs="+",
        help=f"the server: {_URL_FORMS}; or several servers that can all answer each request",
    )
    parser.add_argument(
        "--order",
        choices=values.ORDERS,
        help="of several servers: as many connections to each, or all to the first that can be "
        "connected to (default: balanced)",
    )
    _add_target(parser)
    _add_payload(parser)
    _add_format(parser)
    _add_replies(parser, "as many as are sent")
    _add_measuring(parser)
    _add_extent(parser)
    _add_results(parser)
    _add_backend(parser)


def _add_payload(parser: ArgumentParser) -> None:
    payload = parser.add_mutually_exclusive_group()
    payload.add_argument("--payload", metavar="TEXT", help="what to send with each request")
    payload.add_argument(
        "--payload-hex", metavar="DIGITS", help="the same in hexadecimal digits: 'de ad be ef'"
    )
    completes_files(
        payload.add_argument(
            "--payload-file",
            type=values.payload_file,
            metavar="FILE",
            help="the same from a file; with --format line, without the newline at its end",
        )
    )
    payload.add_argument(
        "--payload-size",
        type=values.size,
        default=_PAYLOAD_BYTES,
        metavar="BYTES",
        help="send so many bytes instead (default: %(default)s)",
    )
    parser.add_argument(
        "--template",
        action="store_true",
        help="fill in the fields of the payload for each request: {n} the request's number, "
        "{n:08} with 8 digits, {n:u32} as 4 bytes (u8, u16, u32, u64; u32le little-endian), "
        "{length:u32} how many bytes follow, {digits:6} and {bytes:16} at random, {{ and }} braces",
    )


def _add_measuring(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--connections",
        type=values.sizes,
        default=(1, 2, 4, 8, 16),
        metavar="N[,N...]",
        help="sizes of the pool (max_size) to compare (default: 1,2,4,8,16)",
    )
    parser.add_argument(
        "--pipeline",
        type=values.count,
        default=1,
        metavar="N",
        help="let so many requests share a connection, of a server that answers in order "
        "(default: 1, none)",
    )
    parser.add_argument(
        "--tasks",
        type=values.count,
        default=32,
        metavar="N",
        help="how many tasks ask, each one request after the other (default: %(default)s)",
    )
    parser.add_argument(
        "--unpooled",
        action=BooleanOptionalAction,
        default=True,
        help="measure connect, exchange, close without a pool too (default: yes)",
    )


def _add_extent(parser: ArgumentParser) -> None:
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--duration",
        type=values.seconds,
        default=3.0,
        metavar="SECONDS",
        help="how long to measure each size (default: 3)",
    )
    extent.add_argument(
        "--requests",
        type=values.requests,
        metavar="N",
        help="make so many requests with each size instead",
    )
    parser.add_argument(
        "--rate",
        type=values.rate,
        metavar="N",
        help="begin N requests a second, whether the earlier ones are answered or not, and count "
        "latencies from when each was due (default: each task asks when it is answered)",
    )
    parser.add_argument(
        "--warm-up",
        type=values.delay,
        default=0.0,
        metavar="SECONDS",
        help="ask for so long before each measurement (default: 0)",
    )


def _add_results(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="write JSON to standard output, and nothing else"
    )
    parser.add_argument(
        "--histogram", action="store_true", help="show how many latencies were how long"
    )
    completes_files(
        parser.add_argument(
            "--plot",
            type=values.plot_path,
            metavar="FILE",
            help="draw throughput and latency against the size of the pool (.svg or .png)",
        )
    )
    parser.add_argument(
        "--fail-above",
        type=values.limits,
        default=(),
        metavar="NAME=SECONDS[,...]",
        help="end with code 1 if a latency with any size exceeds this: p50, p90, p99, p99.9 or max",
    )


def _add_target(parser: ArgumentParser) -> None:
    parser.add_argument("--tls", action="store_true", help="speak TLS, as with tls://")
    completes_files(
        parser.add_argument(
            "--ca", metavar="FILE", help="trust these certificates (PEM) instead of the system's"
        )
    )
    parser.add_argument("--insecure", action="store_true", help="with TLS, accept any certificate")
    parser.add_argument(
        "--timeout",
        type=values.seconds,
        default=10.0,
        metavar="SECONDS",
        help="limit for one request, connecting included (default: 10)",
    )


def _add_format(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="line",
        help="how messages end: by a newline, by the length in a header, or not at all "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--header-size",
        type=int,
        choices=(1, 2, 3, 4),
        default=2,
        help="header of a package, in bytes: the length of the body, big-endian "
        "(default: %(default)s)",
    )


def _add_replies(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--newline",
        choices=NEWLINES,
        help="how lines end with --format line: lf is \\n, crlf is \\r\\n (default: lf)",
    )
    parser.add_argument(
        "--greeting",
        action="store_true",
        help="the server sends a message to each who connects: receive it before anything is sent",
    )
    parser.add_argument(
        "--reply-bytes",
        type=values.reply_size,
        metavar="N",
        help=f"length of a reply with --format raw (default: {default})",
    )


def _add_backend(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="asyncio",
        help="event loop to run on (default: %(default)s)",
    )
