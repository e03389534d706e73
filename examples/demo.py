"""Run the echo server and client against each other on every backend, and check what they print.

Example 1: the server answers for ever. All exchanges go over one connection, so the local port
stays the same.
Example 2: the server hangs up after each reply. Every request gets its reply, over a new connection
each time.
"""

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

EXAMPLES = Path(__file__).parent
COUNT = 4
# Long enough for the news that the server hung up to cross the loopback interface.
INTERVAL = 0.25
LINE = re.compile(
    r"> \d{4}-\d\d-\d\d \d\d:\d\d:\d\d 127\.0\.0\.1:(?P<local>\d+) 127\.0\.0\.1:(?P<remote>\d+)"
)


@contextmanager
def echo_server(backend: str, *options: str) -> Generator[str]:
    """Run the server for the length of the block and give the port it listens on."""
    command = [
        sys.executable,
        str(EXAMPLES / "echo_server.py"),
        "--port",
        "0",
        "--backend",
        backend,
    ]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip().rpartition(":")[2]
        finally:
            server.terminate()


def echo_client(backend: str, port: str) -> list[str]:
    """Run the client to its end, print what it prints and return the lines."""
    command = [
        sys.executable,
        str(EXAMPLES / "echo_client.py"),
        "--port",
        port,
        "--backend",
        backend,
    ]
    command += ["--count", str(COUNT), "--interval", str(INTERVAL)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30)
    print(ended.stdout, end="")
    return ended.stdout.splitlines()


def complaint(lines: list[str], server_port: str, ports_wanted: int) -> str | None:
    """Say what is wrong with the client's lines, if anything is."""
    replies = [match for line in lines if (match := LINE.fullmatch(line))]
    if len(lines) != COUNT or len(replies) != COUNT:
        return f"{COUNT} replies and nothing else were to be printed"
    if {reply["remote"] for reply in replies} != {server_port}:
        return f"every reply was to come from port {server_port}"
    ports = len({reply["local"] for reply in replies})
    if ports != ports_wanted:
        return f"{ports_wanted} different local port(s) were expected, not {ports}"
    return None


def run_example(title: str, backend: str, options: list[str], ports_wanted: int) -> bool:
    """Run one example on one backend, and return whether it went as promised."""
    print(f"\n== {title} [{backend}]", flush=True)
    with echo_server(backend, *options) as port:
        wrong = complaint(echo_client(backend, port), port, ports_wanted)
    print(f"-- WRONG: {wrong}" if wrong else "-- as promised", flush=True)
    return wrong is None


def main() -> int:
    """Run both examples on every backend that is installed and return the exit status."""
    good = True
    for backend, module in (("asyncio", "asyncio"), ("asyncio+uvloop", "uvloop"), ("trio", "trio")):
        if find_spec(module) is None:
            print(f"\n== [{backend}] left out: {module} is not installed")
            continue
        good &= run_example("Example 1: one connection, used again", backend, [], 1)
        good &= run_example(
            "Example 2: the server hangs up after each reply", backend, ["--hang-up"], COUNT
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
