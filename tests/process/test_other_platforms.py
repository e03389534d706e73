"""The package does without what other platforms lack; seen here by hiding it.

It shows what happens when a name is missing, not how another kernel behaves.
"""

from __future__ import annotations

from tests.cases import in_case

from .programs import finish, start

#: what ``sys.platform`` says, and what is not there
PLATFORMS = {
    "PyPy": ("linux", "select.POLLRDHUP"),
    "macOS": ("darwin", "select.POLLRDHUP", "socket.TCP_KEEPIDLE", "socket.TCP_USER_TIMEOUT"),
    "gevent": ("linux", "select.poll"),
    "Windows": (
        *("win32", "select.poll", "select.POLLIN", "select.POLLRDHUP", "socket.AF_UNIX"),
        *("socket.TCP_KEEPIDLE", "socket.TCP_KEEPINTVL", "socket.TCP_KEEPCNT"),
        *("socket.TCP_USER_TIMEOUT", "os.fork", "os.register_at_fork"),
    ),
}


def test_a_pool_works_without_what_another_platform_lacks() -> None:
    """Every module can be imported, and on each loop a pool does what it does elsewhere.

    Over TCP it exchanges, and finds out at the moment of lending that a connection is dead or has
    unread bytes, also on a stream of AnyIO's. Where there are no UNIX sockets, it says so.
    """
    processes = {name: start("elsewhere", *hidden) for name, hidden in PLATFORMS.items()}
    for name, process in processes.items():
        said, errors = finish(process)
        missing = "socket.AF_UNIX" in PLATFORMS[name]
        reason = "This system has no UNIX sockets" if missing else "No such file or directory"
        with in_case(name):
            assert (process.returncode, errors) == (0, "")
            lines = said.splitlines()
            assert len(lines) == 9
            for line in lines:
                _, _, met = line.partition(": ")
                if met.startswith("{"):
                    assert met == "{'peer_closed': 1, 'unread_data': 1}"
                else:
                    assert met.startswith("error connecting to unix:///nowhere/at.all: ")
                    assert reason in met
