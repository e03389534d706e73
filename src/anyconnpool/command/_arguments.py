"""Make a command of the command line: what its options mean when taken together."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NoReturn, Protocol

from anyconnpool._remote import Endpoint, Remote
from anyconnpool.command import _values as values
from anyconnpool.command._completion import program_name
from anyconnpool.command._echo_client import EchoClient
from anyconnpool.command._echo_server import EchoServer
from anyconnpool.command._framing import NEWLINES, Framing, package_format
from anyconnpool.command._load import Load
from anyconnpool.command._measure import Requests
from anyconnpool.command._options import add_client, add_general, add_load, add_server
from anyconnpool.command._pace import Extent
from anyconnpool.command._payload import Payload, from_hex, parse_template
from anyconnpool.command._reasons import CommandError
from anyconnpool.command._sweep import Plan
from anyconnpool.command._target import Service, Target, client_context

_EXIT_CODES = """\
exit codes:
  0 it went well, 1 it failed, 2 wrong usage or a package is missing, 130 Ctrl-C
"""
_LOAD_EXAMPLE = """\
The load is as heavy as the server lets it be: use it against servers of your own.
Tables and progress are drawn by rich, which the extra "cli" installs; --json does without.

examples:
  %(prog)s tcp://127.0.0.1:8999 --connections 1,2,4,8 --tasks 64 --plot sizes.svg
  %(prog)s tcp://127.0.0.1:9001 tcp://127.0.0.1:9002 --connections 8 --duration 60

"""


class Command(Protocol):
    """What was asked for."""

    def run(self) -> int:
        """Do it, and return the exit code."""
        ...


class _Parser(ArgumentParser):
    """A parser whose errors are one line, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} -h)", 2)


def parse(arguments: Sequence[str] | None) -> Command:
    """Read the command line.

    :param arguments: the process's own, if not given
    :raises SystemExit: after ``-h``
    :raises CommandError: if it makes no sense, or a file that it names can't be used
    """
    parser = _Parser(
        prog=program_name(),
        description="Try a connection pool out, and find out how large it should be.",
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_general(parser)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, help_text, epilog, add_options, make in (
        ("echo-server", "send back what clients send", "", add_server, _make_server),
        ("echo-client", "send messages, print the replies", "", add_client, _make_client),
        ("load", "measure pools of several sizes", _LOAD_EXAMPLE, add_load, _make_load),
    ):
        command = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=epilog + _EXIT_CODES,
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.set_defaults(make=make)
        add_options(command)
    options, surplus = parser.parse_known_args(arguments)
    _take_late_arguments(parser, options, surplus)
    made: Command = options.make(options)
    return made


def _take_late_arguments(parser: ArgumentParser, options: Namespace, surplus: list[str]) -> None:
    """Take messages and URLs that follow an option: argparse takes no more of them after one."""
    unknown = [text for text in surplus if text.startswith("-")]
    if unknown or (surplus and not ("messages" in options or "urls" in options)):
        parser.error(f"unrecognized arguments: {' '.join(unknown or surplus)}")
    if surplus and "messages" in options:
        options.messages += surplus
    elif surplus:
        try:
            options.urls += map(values.url, surplus)
        except ArgumentTypeError as error:
            parser.error(f"argument URL: {error}")


def _make_server(options: Namespace) -> Command:
    if options.tls_key is not None and options.tls_cert is None:
        raise CommandError("--tls-key needs --tls-cert", 2)
    return EchoServer(
        host=options.host,
        port=options.port,
        path=options.unix,
        framing=_framing(options),
        delay=options.delay,
        cert=options.tls_cert,
        key=options.tls_key,
        backend=options.backend,
        verbose=options.verbose,
    )


def _make_client(options: Namespace) -> Command:
    framing = _client_framing(options)
    messages = [_encode(message) for message in options.messages]
    for message in messages:
        _check_message(framing, message)
    (target,) = _targets([options.url], options)
    return EchoClient(target, messages, framing, options.timeout, options.backend)


def _make_load(options: Namespace) -> Command:
    payload = _payload(options)
    framing = _client_framing(options)
    if options.format == "raw" and options.reply_bytes is None:
        framing = replace(framing, reply_as_sent=True)
    if options.format == "line" and payload.is_binary:
        text = "a field may contain a newline, and a line can't: use --format package or raw"
        raise CommandError(text, 2)
    _check_message(framing, payload.longest())
    plan = Plan(
        target=_load_target(options),
        requests=Requests(framing, payload, options.timeout),
        timeout=options.timeout,
        sizes=options.connections,
        pipeline=options.pipeline,
        tasks=options.tasks,
        extent=_extent(options),
        warm_up=options.warm_up,
        unpooled=options.unpooled,
    )
    return Load(
        plan,
        backend=options.backend,
        format=options.format,
        payload_bytes=payload.size,
        json=options.json,
        histogram=options.histogram,
        plot=options.plot,
        limits=options.fail_above,
    )


def _extent(options: Namespace) -> Extent:
    if options.requests is None:
        return Extent(options.duration, rate=options.rate)
    return Extent(math.inf, options.requests, options.rate)


def _payload(options: Namespace) -> Payload:
    content, option = b"x" * options.payload_size, "--payload-size"
    if options.payload is not None:
        content, option = _encode(options.payload), "--payload"
    elif options.payload_hex is not None:
        content, option = _encode(options.payload_hex), "--payload-hex"
    elif options.payload_file is not None:
        content, option = options.payload_file, "--payload-file"
        if options.format == "line":
            end = NEWLINES[options.newline or "lf"]
            content = content.removesuffix(end if content.endswith(end) else b"\n")
    decode = from_hex if option == "--payload-hex" else bytes
    try:
        return parse_template(content, decode) if options.template else Payload([decode(content)])
    except ValueError as error:
        raise CommandError(f"{option}: {error}", 2) from error


def _load_target(options: Namespace) -> Target | Service:
    servers = _targets(options.urls, options)
    if len(servers) == 1:
        if options.order is not None:
            raise CommandError("--order is for several servers: give more than one URL", 2)
        return servers[0]
    known: set[Hashable] = set()
    for server in servers:
        key = Endpoint.of(server.remote).key
        if key in known:
            raise CommandError(f"{server} is there twice", 2)
        known.add(key)
    return Service(servers, "in_order" if options.order == "in-order" else "balanced")


def _targets(urls: Sequence[tuple[Remote, bool]], options: Namespace) -> Sequence[Target]:
    remotes = [remote for remote, _ in urls]
    tls: bool = options.tls or urls[0][1]
    if options.tls and not all(isinstance(remote, tuple) for remote in remotes):
        raise CommandError("--tls goes with tcp:// alone", 2)
    if any((options.tls or wanted) is not tls for _, wanted in urls):
        raise CommandError("TLS is for all servers or for none: with tls:// for each, or --tls", 2)
    if not tls and (options.ca is not None or options.insecure):
        raise CommandError("--ca and --insecure go with TLS alone: tls://HOST:PORT, or --tls", 2)
    context = client_context(options.ca, insecure=options.insecure) if tls else None
    return [Target(remote, context) for remote in remotes]


def _framing(options: Namespace) -> Framing:
    return Framing(options.format, package_format(options.header_size))


def _client_framing(options: Namespace) -> Framing:
    if options.reply_bytes is not None and options.format != "raw":
        raise CommandError("--reply-bytes goes with --format raw alone", 2)
    if options.newline is not None and options.format != "line":
        raise CommandError("--newline goes with --format line alone", 2)
    return replace(
        _framing(options),
        reply_bytes=options.reply_bytes,
        newline=NEWLINES[options.newline or "lf"],
        greeting=options.greeting,
    )


def _check_message(framing: Framing, message: bytes) -> None:
    try:
        framing.check_message(message)
    except ValueError as error:
        raise CommandError(str(error), 2) from error


def _encode(text: str) -> bytes:
    # As the shell passed it, if that was not text.
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")
