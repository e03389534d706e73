"""Options: what is refused, with which words, before anything is opened."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from anyconnpool.command import main
from tests.cases import table

URL = "tcp://127.0.0.1:1"
COMMANDS = ("echo-server", "echo-client", "load")


@table(
    "arguments, text",
    [
        ("", "required: COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("load", "required: URL"),
        (f"load {URL} more", "argument URL: this is not tcp://host:port"),
        (f"load {URL} --tasks 4 more", "argument URL: this is not tcp://host:port"),
        (f"echo-server {URL}", f"unrecognized arguments: {URL}"),
        (f"load {URL} tcp://127.0.0.1", "it takes a host and a port"),
        (f"load {URL},tcp://127.0.0.1:2", "several URLs are separated by spaces"),
        (f"load {URL} tcp://127.0.0.1:2 {URL}", f"{URL} is there twice"),
        ("load tls://h:1 tcp://h:1 --tls", "tls://h:1 is there twice"),
        ("load unix:///x unix:///x", "unix:///x is there twice"),
        (f"load {URL} --order balanced", "--order is for several servers: give more than one URL"),
        (f"load {URL} tcp://127.0.0.1:2 --order random", "invalid choice: 'random'"),
        (f"load {URL} tls://127.0.0.1:2", "TLS is for all servers or for none"),
        (f"load {URL} unix:///x --tls", "tcp:// alone"),
        (f"load {URL} tcp://127.0.0.1:2 --insecure", "go with TLS alone"),
        (f"echo-client {URL} --order balanced", "unrecognized arguments: --order"),
        (f"echo-client {URL} hi --dance", "unrecognized arguments: --dance"),
        ("load http://127.0.0.1:1", "the scheme is none of these"),
        ("load tcp://127.0.0.1", "it takes a host and a port"),
        ("load unix://relative", "three slashes"),
        ("load tcp://127.0.0.1:0", "a port must be 1 to 65535, not 0"),
        (f"load {URL} --tasks {'9' * 5000}", f"'{'9' * 40}…' is not a whole number"),
        (f"load {URL} --timeout {'9' * 5000}", f"'{'9' * 40}…' is not a number of seconds"),
        (f"load {URL} --connections 0", "1 at least"),
        (f"load {URL} --connections 1,x", "'x' is not a whole number"),
        (f"load {URL} --tasks 1000001", "from 0 to 1000000"),
        (f"load {URL} --duration 0", "more than 0 seconds"),
        (f"load {URL} --duration nan", "not a number of seconds"),
        (f"load {URL} --timeout inf", "not a number of seconds"),
        (f"load {URL} --timeout soon", "not a number of seconds"),
        (f"load {URL} --plot sizes.pdf", "does not end with .svg or .png"),
        (f"load {URL} --plot /no/where.svg", "there is no directory '/no'"),
        (f"load {URL} --payload a --payload-size 1", "not allowed with"),
        (f"load {URL} --payload-size 1048577", "1048576 bytes at most, not 1048577"),
        (f"load {URL} --format package --header-size 1 --payload-size 256", "255 bytes at most"),
        (f"load {URL} --format package --header-size 4 --payload-size 16777216", "16777215 bytes"),
        (f"load {URL} --format raw --payload-size 1048577", "a raw message has 1048576 bytes"),
        (f"load {URL} --payload-size -1", "'-1' is not a whole number"),
        (f"load {URL} --format raw --reply-bytes 0", "1 at least"),
        (f"load {URL} --format raw --payload-size 0", "nothing to send"),
        (f"load {URL} --reply-bytes 5", "--format raw alone"),
        (f"echo-client {URL} hi --reply-bytes 5", "--format raw alone"),
        (f"echo-client {URL} hi --newline crlf --format package", "--format line alone"),
        (f"load {URL} --newline cr", "invalid choice: 'cr'"),
        (f"load {URL} --insecure", "go with TLS alone"),
        (f"load {URL} --ca file.pem", "go with TLS alone"),
        ("load unix:///x --tls", "tcp:// alone"),
        (f"load {URL} --tls --ca /no/ca.pem", "--ca /no/ca.pem: No such file"),
        ("echo-server --port 65536", "from 0 to 65535"),
        ("echo-server --tls-key key.pem", "--tls-key needs --tls-cert"),
        ("echo-server --tls-cert /no/cert.pem", "--tls-cert /no/cert.pem: No such file"),
        ("echo-server --tls-cert /dev/null --tls-key /no", "--tls-key /no: No such file"),
        ("echo-server --tls-cert /dev/null", "--tls-cert /dev/null: there is no certificate"),
        (f"load {URL} --payload-file /no/file", "--payload-file: /no/file: No such file"),
        (f"load {URL} --payload-file /", "--payload-file: /: Is a directory"),
        (f"load {URL} --payload-file /dev/zero", "/dev/zero: it has more than 16777215 bytes"),
        (f"load {URL} --payload-hex s3cret", "--payload-hex: it takes pairs of hexadecimal"),
        (f"load {URL} --payload s3cret{{ --template", "--payload: byte 7 begins no field"),
        (f"load {URL} --payload {{n:u32}} --template", "a field may contain a newline"),
        (f"load {URL} --payload-hex 0a", "a line can't contain a newline"),
        (
            f"load {URL} --format package --header-size 1 --payload {{bytes:256}} --template",
            "255 bytes at most, not 256",
        ),
        (f"load {URL} --rate 0", "'0' is not a number of requests per second"),
        (f"load {URL} --rate inf", "'inf' is not a number of requests per second"),
        (f"load {URL} --rate fast", "'fast' is not a number of requests per second"),
        (f"load {URL} --requests 0", "1 at least"),
        (f"load {URL} --requests 1 --duration 1", "not allowed with"),
        (f"load {URL} --warm-up -1", "not a number of seconds"),
        (f"load {URL} --fail-above p99", "'p99' is not NAME=SECONDS with a name of p50, p90, p99"),
        (f"load {URL} --fail-above p42=1", "'p42=1' is not NAME=SECONDS"),
        (f"load {URL} --fail-above p99=1,max=0", "more than 0 seconds"),
        ("--print-completion csh", "invalid choice: 'csh'"),
    ],
)
def test_wrong_usage(
    arguments: str, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What makes no sense ends with code 2 and one line that says what is wrong."""
    assert main(arguments.split()) == 2
    output, errors = capsys.readouterr()
    assert not output
    assert re.fullmatch(r"anyconnpool: [^\n]+\n", errors)
    assert text in errors
    assert "s3cret" not in errors


def test_a_line_must_not_contain_a_newline(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that its format can't carry is refused, and told which formats can."""
    for arguments in (["load", URL, "--payload", "a\nb"], ["echo-client", URL, "a\nb"]):
        assert main(arguments) == 2
        assert "send it with --format package or raw" in capsys.readouterr().err


def test_a_file_without_certificate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file that is no certificate is refused by name."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    assert main(["load", "tls://127.0.0.1:1", "--ca", str(path)]) == 2
    assert f"--ca {path}: there is no certificate" in capsys.readouterr().err


def test_the_name_of_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named without what a terminal would obey."""
    for command in (["load", URL, "--payload-file"], ["echo-server", "--tls-cert"]):
        assert main([*command, "/no/\x1b[31m\nfile"]) == 2
        assert r": No such file" in (text := capsys.readouterr().err)
        assert r"/no/\x1b[31m\nfile: " in text
        assert "\x1b" not in text


@table(
    "called, name",
    [
        ("/usr/bin/anyconnpool", "anyconnpool"),
        ("/x/anyconnpool/__main__.py", "python -m anyconnpool"),
    ],
)
def test_the_program_is_named_as_it_was_called(
    called: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Help and errors name the command that can be typed."""
    monkeypatch.setattr(sys, "argv", [called])
    assert main(["load"]) == 2
    assert f"(see {name} load -h)" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names the versions of the package, of AnyIO and of Python."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    python = re.escape(platform.python_version())
    written = rf"anyconnpool {re.escape(version('anyconnpool'))} \(AnyIO [\d.]+, \w+ {python}\)\n"
    assert re.fullmatch(written, capsys.readouterr().out)


def test_the_version_of_what_was_never_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package runs from its sources, --version says that it doesn't know."""

    def find_nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("anyconnpool.command._completion.version", find_nothing)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("anyconnpool of unknown version (AnyIO of unknown")


@table("command", COMMANDS)
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of every command has an explanation, and every duration its unit."""
    with pytest.raises(SystemExit) as ended:
        main([command, "-h"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    _, _, options = text.partition("options:\n")
    explained = re.findall(r"^  (-.*?)(?:  +|\n {20,})(\S.*)$", options, re.MULTILINE)
    assert len(explained) == len(re.findall(r"^  -", options, re.MULTILINE)) >= 5
    for name in ("--timeout", "--duration", "--delay"):
        assert name not in options or f"{name} SECONDS" in options
