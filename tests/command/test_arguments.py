"""Options: what is refused, with which words, before anything is opened."""

from __future__ import annotations

import re
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
        (f"load {URL} more", "unrecognized arguments: more"),
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
        (f"load {URL} --insecure", "go with TLS alone"),
        (f"load {URL} --ca file.pem", "go with TLS alone"),
        ("load unix:///x --tls", "tcp:// alone"),
        (f"load {URL} --tls --ca /no/ca.pem", "--ca /no/ca.pem: No such file"),
        ("echo-server --port 65536", "from 0 to 65535"),
        ("echo-server --tls-key key.pem", "--tls-key needs --tls-cert"),
        ("echo-server --tls-cert /no/cert.pem", "No such file"),
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
