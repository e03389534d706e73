"""The pool's settings: one frozen value, checked when it is made, before anything is opened.

A setting is written once, in :class:`Settings`: its type, its default, its check and its meaning.
The documentation and the tests' tables of wrong values are made from that. :class:`PoolOptions`,
which type checkers need, repeats name and type, except those of ``on_connect``; a test compares
the two.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from ssl import SSLContext
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, cast

from anyconnpool._formats import PackageFormat
from anyconnpool._keepalive import KeepAlive
from anyconnpool._retry import Retry
from anyconnpool._util.checks import (
    advise,
    as_bytes,
    check_count,
    check_duration,
    check_size,
    make_printable,
    quoted,
)
from anyconnpool.events import Observer, guard_observer

if TYPE_CHECKING:
    from typing_extensions import Self

IdleOrder = Literal["lifo", "fifo"]
#: an asynchronous function that is given a :class:`PooledConnection`
Hook: TypeAlias = Callable[[Any], Awaitable[object]]

AnyClass = TypeVar("AnyClass", bound=type[object])

# What a setting is called in other libraries.
_SYNONYMS = {
    "after_release": "on_release",
    "circuit_breaker": "fail_fast_after",
    "configure": "on_connect",
    "context": "ssl_context",
    "delimiter": "newline",
    "health_check": "check",
    "idle_timeout": "max_idle_time",
    "init": "on_connect",
    "limit": "max_size",
    "max_age": "max_lifetime",
    "max_connections": "max_size",
    "maxconn": "max_size",
    "maxsize": "max_size",
    "min_connections": "min_idle",
    "min_size": "min_idle",
    "minconn": "min_idle",
    "minsize": "min_idle",
    "on_disconnect": "on_close",
    "on_open": "on_connect",
    "ping": "check",
    "pool_recycle": "max_lifetime",
    "pool_size": "max_size",
    "pool_timeout": "acquire_timeout",
    "recycle": "max_lifetime",
    "reset": "on_release",
    "retries": "connect_retry",
    "retry": "connect_retry",
    "server_hostname": "tls_hostname",
    "setup": "on_connect",
    "size": "max_size",
    "ssl": "tls",
    "timeout": "acquire_timeout",
    "tls_context": "ssl_context",
    "ttl": "max_lifetime",
}

# What belongs elsewhere, and where.
_REPLICAS = "several servers are the pool's remote, as a list or a Replicas with its own options"
_LOGIN = "log in in on_connect"
_ELSEWHERE = {
    "auth": _LOGIN,
    "db": _LOGIN,
    "password": _LOGIN,
    "user": _LOGIN,
    "username": _LOGIN,
    "max_total": "a PoolManager has it, for all its pools",
    "hosts": _REPLICAS,
    "order": _REPLICAS,
    "refresh": _REPLICAS,
    "remotes": _REPLICAS,
    "replicas": _REPLICAS,
    "rest": _REPLICAS,
    "read_timeout": "exchanges have timeout=, and shared connections stall_timeout",
    "socket_timeout": "exchanges have timeout=, and connecting has connect_timeout",
}


class Check(Protocol):
    """Checks the value of a setting."""

    def __call__(self, name: str, value: Any, /) -> object:
        """Check the value, and return it as it is to be kept.

        :raises TypeError: if it is of the wrong type
        :raises ValueError: if it makes no sense
        """
        ...


@dataclass(frozen=True)
class Count:
    """Check a whole number.

    :param least: smallest value
    :param unlimited: whether ``math.inf`` is allowed
    """

    least: int
    unlimited: bool = True

    def __call__(self, name: str, value: object) -> object:
        """Return the number."""
        check_count(name, value, least=self.least, unlimited=self.unlimited)
        return value


@dataclass(frozen=True)
class Choice:
    """Check that a value is one of a few.

    :param values: the few
    """

    values: tuple[str, ...]

    def __call__(self, name: str, value: object) -> object:
        """Return the value."""
        if value not in self.values:
            choices = " or ".join(f'"{choice}"' for choice in self.values)
            raise ValueError(f"{name} must be {choices}, not {quoted(value)}")
        return value


@dataclass(frozen=True)
class Kind:
    """Check that a value is an object of a type.

    :param type: the type
    :param optional: whether it may be ``None``
    """

    type: type
    optional: bool = False

    def __call__(self, name: str, value: object) -> object:
        """Return the value."""
        if not (isinstance(value, self.type) or (self.optional and value is None)):
            kind = self.type.__name__ + (" or None" if self.optional else "")
            given = "the class itself" if value is self.type else type(value).__name__
            raise TypeError(f"{name} must be a {kind}, not {given}{advise(self.type, value)}")
        return value


def check_name(name: str, value: object) -> object:
    """Return the name of a pool with everything escaped that a log shouldn't get."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return make_printable(value)


def check_newline(name: str, value: object) -> object:
    """Return what ends a line as bytes of its own."""
    newline = as_bytes(name, value)
    check_size(name, len(newline))
    return newline


def check_harmless(name: str, value: object) -> object:
    """Check classes of exceptions, and return the tuple of them."""
    given, advice = value, ""
    if not isinstance(value, tuple):
        if isinstance(value, type) and issubclass(value, Exception):
            advice = f": write ({value.__name__},)"
        raise TypeError(
            f"{name} must be a tuple of subclasses of Exception, not {quoted(given)}{advice}"
        )
    classes = cast("tuple[object, ...]", value)
    for each in classes:
        wrong = each
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise TypeError(f"{name} must hold subclasses of Exception only, not {quoted(wrong)}")
    return classes


def check_positive_duration(name: str, value: object) -> object:
    """Check a duration that may not be zero, and return it."""
    seconds = check_duration(name, value)
    if not seconds:
        raise ValueError(f"{name} must be more than 0; math.inf switches it off")
    return seconds


def check_hook(name: str, value: object) -> object:
    """Check a hook, and return it."""
    if value is not None and not callable(value):
        advice = ": give the function without a call of it" if inspect.iscoroutine(value) else ""
        raise TypeError(f"{name} must be an async function, not {quoted(value)}{advice}")
    return value


def check_observers(name: str, value: object) -> object:
    """Check observers, and return a tuple of them."""
    given = value
    observers = tuple(cast("Iterable[object]", value)) if isinstance(value, Iterable) else None
    if observers is None or not all(map(callable, observers)):
        raise TypeError(f"{name} must be an iterable of callables, not {quoted(given)}")
    return tuple(map(guard_observer, cast("tuple[Observer, ...]", observers)))


#: the checks of settings that are a number of seconds
_DURATIONS = (check_duration, check_positive_duration)


def _setting(default: Any, check: Check, meaning: str) -> Any:
    return field(default=default, metadata={"check": check, "meaning": meaning})


class PoolOptions(TypedDict, total=False):
    """The keyword settings of a pool, for those that pass them on.

    Except ``on_connect``: what that returns is part of a pool's type, so that it is a parameter of
    its own.
    """

    max_size: float
    min_idle: int
    max_idle_time: float
    max_lifetime: float
    max_uses: float
    max_waiting: float
    acquire_timeout: float
    connect_timeout: float
    connect_retry: Retry | None
    max_connecting: float
    fail_fast_after: float
    close_timeout: float
    idle_order: IdleOrder
    pipeline: int
    stall_timeout: float
    one_way: bool
    harmless: tuple[type[Exception], ...]
    check: Hook | None
    check_after: float
    check_timeout: float
    check_every: float
    on_release: Hook | None
    on_unread: Hook | None
    on_close: Hook | None
    keepalive: KeepAlive | None
    package_format: PackageFormat
    max_line_bytes: int
    newline: bytes
    observers: Iterable[Observer]
    leak_after: float
    name: str


class RemoteOptions(PoolOptions, total=False):
    """What else may be chosen where a pool is made, for the signatures that it has for checkers."""

    ssl_context: SSLContext | None
    tls_hostname: str | None
    tls_standard_compatible: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that can be chosen about a pool except its remote; see :class:`ConnectionPool`."""

    max_size: float = _setting(
        10,
        Count(least=1),
        "the most sockets at once, including those that are being opened or closed",
    )
    min_idle: int = _setting(
        0,
        Count(least=0, unlimited=False),
        "how many idle connections to keep ready; the pool opens what is missing in the background",
    )
    max_idle_time: float = _setting(
        600,
        check_duration,
        "close a connection that has been idle for so long; 600 s is what gtcp documents",
    )
    max_lifetime: float = _setting(
        math.inf,
        check_duration,
        "close a connection that is so old; each ends up to a tenth earlier, at random, so that "
        "they don't all end together; a borrowed connection is closed when it comes back",
    )
    max_uses: float = _setting(
        math.inf,
        Count(least=1),
        "close a connection when it comes back from so many borrows",
    )
    max_waiting: float = _setting(
        math.inf,
        Count(least=0),
        "the most tasks that may wait for a slot; one more gets :exc:`PoolFull` at once, and with "
        "0 nobody waits for a slot; a task whose connection is being opened, because there is "
        "room for it, doesn't count",
    )
    acquire_timeout: float = _setting(
        math.inf,
        check_duration,
        "limit of :meth:`acquire`, unless it is overridden in the call",
    )
    connect_timeout: float = _setting(
        30,
        check_duration,
        "limit of one attempt to connect, TLS handshake and ``on_connect`` included; while there "
        "is room for another attempt, one that hangs holds up only the callers who waited when it "
        "began; 30 s is gtcp's limit for dialling",
    )
    connect_retry: Retry | None = _setting(
        None,
        Kind(Retry, optional=True),
        "a :class:`Retry`: how often a failed connect is repeated while somebody waits, and after "
        "which pauses; a pause holds no slot, and a caller who comes during one gets a first try "
        "at once",
    )
    max_connecting: float = _setting(
        math.inf,
        Count(least=1),
        "the most attempts to connect that are under way at once, ``on_connect`` included; the "
        "others wait for their turn, and that time doesn't count for ``connect_timeout``",
    )
    fail_fast_after: float = _setting(
        math.inf,
        check_duration,
        "refuse all callers at once, with :exc:`~anyio.ConnectionFailed`, when nothing is open and "
        "connecting has failed for so long without one success; the pool then tries by itself, "
        "one attempt at a time, until one succeeds; the pauses between its attempts are those of "
        "``connect_retry``, whose ``count`` doesn't matter here, or of ``Retry(math.inf, "
        "max_interval=5)``",
    )
    close_timeout: float = _setting(
        5,
        check_duration,
        "limit for closing one connection, if nobody waits for its slot; when the block ends, also "
        "how long borrowed connections may stay out; after that they are closed by force",
    )
    idle_order: IdleOrder = _setting(
        "lifo",
        Choice(("lifo", "fifo")),
        '``"lifo"`` reuses the connection that was used last, which lets the surplus expire; '
        '``"fifo"`` reuses the one that has been idle longest, which spreads the load behind a '
        "balancer",
    )
    pipeline: int = _setting(
        1,
        Count(least=1, unlimited=False),
        "the most exchanges on one connection whose replies have not come yet: with more than 1, "
        ":meth:`exchange`, :meth:`send_receive_line`, :meth:`send_receive_package` and "
        ":meth:`send_receive` with a size share connections, for servers that answer in order",
    )
    stall_timeout: float = _setting(
        30.0,
        check_positive_duration,
        "close a shared connection that owes replies when not one byte has come for so long",
    )
    one_way: bool = _setting(
        False,
        Kind(bool),
        "whether the protocol has no replies, so that a send may be the last operation on a "
        "connection that is reused",
    )
    harmless: tuple[type[Exception], ...] = _setting(
        (),
        check_harmless,
        "a tuple of subclasses of ``Exception``, the errors of your own protocol: if a borrower "
        "raises one of them, the connection is reused, provided that it is clean by every other "
        "rule; every other exception closes the connection",
    )
    on_connect: Hook | None = _setting(
        None,
        check_hook,
        "an async function that is called with each new connection, to log in or shake hands, with "
        "the context variables of the pool's block; what it returns is kept as the connection's "
        ":attr:`~PooledConnection.session`; if it fails or returns ``False``, the connection is "
        "closed and the caller gets the error",
    )
    check: Hook | None = _setting(
        None,
        check_hook,
        "an async function that asks the peer of a connection whether it still answers; it is "
        "called before the reuse of a connection that has been idle for ``check_after``, for at "
        "most one connection a request; if it fails, returns ``False`` or takes longer than "
        "``check_timeout``, the connection is closed and another one used; a caller waits for it "
        "no longer than a tenth of a second if another connection can be opened, or an idle one "
        "can make room",
    )
    check_after: float = _setting(
        30,
        check_duration,
        "how long a connection has to be idle before ``check`` is called; a check doesn't count as "
        "a use: ``max_idle_time`` goes on counting",
    )
    check_timeout: float = _setting(
        5, check_positive_duration, "limit of one ``check``, ``on_release`` or ``on_unread``"
    )
    check_every: float = _setting(
        math.inf,
        check_positive_duration,
        "call ``check`` in the background for each connection that was neither used nor checked "
        "for so long, at most four at a time; ``check_after`` counts from such a check, too; needs "
        "a ``check``",
    )
    on_release: Hook | None = _setting(
        None,
        check_hook,
        "an async function that makes a connection ready for the next borrower (``ROLLBACK``, "
        "``RESET``); a task of the pool calls it when a connection has come back clean, and nobody "
        "gets the connection before it has returned; if it fails, returns ``False``, takes longer "
        "than ``check_timeout`` or leaves a reply unread, the connection is closed",
    )
    on_unread: Hook | None = _setting(
        None,
        check_hook,
        "an async function that is called when bytes arrive on an idle connection (a ``PING``, a "
        "notice), which would be closed otherwise; it reads them and may answer; if it fails, "
        "returns ``False``, takes longer than ``check_timeout`` or leaves bytes unread, the "
        "connection is closed",
    )
    on_close: Hook | None = _setting(
        None,
        check_hook,
        "an async function that says goodbye (``QUIT``) on a good connection before it is closed, "
        "within ``close_timeout``; it isn't called if somebody waits for the slot; an error in it "
        "is logged at DEBUG",
    )
    keepalive: KeepAlive | None = _setting(
        KeepAlive(),
        Kind(KeepAlive, optional=True),
        "how the kernel finds out about dead peers of TCP connections; with ``None``, the sockets "
        "stay as the system makes them",
    )
    package_format: PackageFormat = _setting(
        PackageFormat(),
        Kind(PackageFormat),
        "format of packages, unless it is overridden in the call",
    )
    max_line_bytes: int = _setting(
        65_536,
        Count(least=1, unlimited=False),
        "the longest line in bytes, unless it is overridden in the call; 65 536 is AnyIO's default "
        "for one receive",
    )
    newline: bytes = _setting(
        b"\n",
        check_newline,
        "what ends the lines that are sent and received, unless it is overridden in the call",
    )
    observers: Iterable[Observer] = _setting(
        (),
        check_observers,
        "functions that are called with every :class:`~anyconnpool.events.PoolEvent`, to measure "
        "or log what the pool does",
    )
    leak_after: float = _setting(
        math.inf,
        check_duration,
        "log a WARNING when a connection has been borrowed for so long, at most 5 s late; it names "
        "the task, and the line of code that acquired the connection",
    )
    name: str = _setting(
        MISSING, check_name, "for logs, errors and statistics (default: the remote as a URL)"
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            value: object = getattr(self, setting.name)
            checked: object = setting.metadata["check"](setting.name, value)
            object.__setattr__(self, setting.name, checked)
        if self.min_idle > self.max_size:
            raise ValueError(
                f"min_idle must not exceed max_size, but {self.min_idle} exceeds {self.max_size}"
            )
        if self.one_way and self.pipeline > 1:
            raise ValueError("a one_way protocol has no replies: pipeline must be 1")
        if self.check is None and self.check_every < math.inf:
            raise ValueError("check_every needs a check: the function that asks the peer")

    @classmethod
    def from_options(
        cls, options: PoolOptions, on_connect: Hook | None = None, name: str = ""
    ) -> Self:
        """Make settings of keyword options.

        :param options: the settings
        :param on_connect: prepares a new connection
        :param name: the name if none is given
        :raises TypeError: if an option is not a setting, or of the wrong type
        :raises ValueError: if a setting makes no sense
        """
        known = [setting.name for setting in fields(cls)]
        for option in options:
            if option not in known:
                raise TypeError(f"a pool has no setting {option!r}{_suggest(option, known)}")
        if options.get("name") is None:
            options["name"] = name
        return cls(on_connect=on_connect, **options)


def _suggest(option: str, known: Iterable[str]) -> str:
    if option in _ELSEWHERE:
        return f": {_ELSEWHERE[option]}"
    close = get_close_matches(option, known, n=1)
    meant = _SYNONYMS.get(option) or (close[0] if close else "")
    return f": did you mean {meant}?" if meant else ""


def describes_settings(cls: AnyClass) -> AnyClass:
    """Put the settings into a class's docstring, at its line ``:settings:``."""
    # Without docstrings (python -OO) there is nothing to describe.
    if cls.__doc__ is not None:
        described = "\n".join(map(_describe, fields(Settings)))
        cls.__doc__ = inspect.cleandoc(cls.__doc__).replace(":settings:", described)
    return cls


def _describe(setting: Any) -> str:
    text = f":param {setting.name}: {setting.metadata['meaning']}"
    if setting.default is not MISSING:
        unit = "in seconds; " if setting.metadata["check"] in _DURATIONS else ""
        text += f" ({unit}default: {_describe_default(setting)})"
    return fill(text, 96, subsequent_indent="    ")


def _describe_default(setting: Any) -> str:
    default = setting.default
    if default == math.inf:
        is_due = setting.metadata["check"] in _DURATIONS and not setting.name.endswith("timeout")
        return "never" if is_due else "no limit"
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, (KeepAlive, PackageFormat)):
        return f"``{type(default).__name__}()``"
    if isinstance(default, bytes):
        # In a docstring of reST, a backslash outside of a literal would be lost.
        return f"``{default!r}``"
    if isinstance(default, str):
        return f'``"{default}"``'
    return f"{default:g}" if setting.metadata["check"] in _DURATIONS else f"{default}"
