"""Shells complete commands, options and the names of files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from anyconnpool.command import main
from anyconnpool.command._completion import SHELLS
from tests.cases import table

# What bash does when somebody presses the tabulator.
_PRESS_TAB = """\
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
completer=$(complete -p anyconnpool | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$completer" anyconnpool "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completion_for(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    output, errors = capsys.readouterr()
    assert not errors
    return output


@table("shell", SHELLS)
def test_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For every shell there is a script that knows the commands and completes the script's name."""
    script = completion_for(shell, capsys)
    assert "echo-server" in script
    assert "payload-file" in script
    assert "python -m" not in script


# The script is bash's own: nothing else can run it.
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@table(
    "words, completions",
    [
        (["l"], {"load"}),
        (["echo-"], {"echo-server", "echo-client"}),
        (["load", "--payload-"], {"--payload-hex", "--payload-file", "--payload-size"}),
        (["load", "tcp://x:1", "--backend", "a"], {"asyncio"}),
        (["load", "tcp://x:1", "--newline", "c"], {"crlf"}),
        (["echo-client", "--gr"], {"--greeting"}),
        (["load", "tcp://x:1", "tcp://x:2", "--order", "in"], {"in-order"}),
        (["echo-server", "--tls-cert", "some"], {"some.pem"}),
    ],
)
def test_bash(
    words: list[str],
    completions: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What bash offers after some words."""
    script = tmp_path / "completion"
    script.write_text(completion_for("bash", capsys), "utf-8")
    (tmp_path / "some.pem").touch()
    command = ["bash", "-c", _PRESS_TAB, "bash", str(script), "anyconnpool", *words]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=40)
    assert not ended.stderr
    assert {word.strip() for word in ended.stdout.splitlines()} == completions
