"""Several servers of one service, as the remote of a pool or by themselves."""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from anyio import ConnectionFailed, Lock, current_time, getaddrinfo
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.lowlevel import current_token

from anyconnpool._core.health import Health, Replica
from anyconnpool._core.states import PoolEntry
from anyconnpool._engine.connector import sum_up
from anyconnpool._remote import (
    ByRemote,
    Endpoint,
    Remote,
    RemoteGroup,
    TLSOptions,
    make_endpoint,
    quoted_remote,
)
from anyconnpool._retry import Retry
from anyconnpool._settings import Choice, Kind
from anyconnpool._streams.connectable import Target, make_connectable
from anyconnpool._util.cancellation import ends_program
from anyconnpool._util.checks import check_duration, make_printable, quoted
from anyconnpool._util.errors import without_frames
from anyconnpool._util.functions import call_async, describe_function
from anyconnpool._util.log import GuardedLogger, describe_error

if TYPE_CHECKING:
    from typing_extensions import Self

#: finds the remotes of a service
Discover: TypeAlias = Callable[[], Awaitable[Iterable[Remote]]]

_logger = GuardedLogger("anyconnpool.pool")

# Those of make_endpoint(): tls, ssl_context, tls_hostname, tls_standard_compatible.
_TLSChoices: TypeAlias = tuple[bool, ssl.SSLContext | None, str | None, bool]
_NO_TLS: _TLSChoices = (False, None, None, True)

_REST = Retry(math.inf, interval=1, max_interval=30)
# Added to the time, less may be nothing at all, and attempts would never end.
_SHORTEST_REST = 0.001


@dataclass(frozen=True)
class ReplicaState:
    """What is known of one of several :class:`Replicas` at one moment."""

    #: whether it gets no new connections at the moment, because it has failed
    resting: bool
    #: failures in a row, since its last answer
    failures: int
    #: why it failed the last time; ``None`` if it has answered since
    last_error: Exception | None
    #: how many connections it has, including those that are being opened
    connections: int
    #: how many of them are borrowed
    in_use: int


class Replicas(RemoteGroup):
    """Several servers of one service: a remote for one pool, with failover.

    Give it to a :class:`ConnectionPool` in place of one remote; a list alone is short for
    ``Replicas(list)``. The pool has one ``max_size`` for all of them, and one line of waiters: a
    connection that becomes available, to whichever replica, goes to the task that has waited
    longest. The TLS options of the pool hold for each remote.

    **Rest.** A replica rests when connecting to it fails (``on_connect`` included), or when the
    first exchange on a new connection to it ends, by a hang-up or a timeout, before the first byte
    of a reply. Then it gets no new connections for a while. After a timeout, its connections are
    closed, the borrowed ones when they come back; after another failure, they go on serving. A
    burst of failures counts once. A hang-up on a connection that was used before, an error after
    the first byte and a cancellation don't count.

    **Failover.** A connect that fails goes on with the next replica within the same attempt, so
    that one dead server of several costs nobody an error. ``connect_timeout`` is for each. If all
    fail, the error is a :exc:`~anyio.ConnectionFailed` whose cause is a group with one error for
    each; with one replica, it is that replica's error as it is.

    **Return.** When a rest is over, the pool opens one connection to the replica by itself, and
    calls ``check`` with it, if there is one. Where such attempts hold all slots, and a caller needs
    one, they are given up after a second. Until a reply has come on it, the replica gets no other
    connection, as long as another replica is well. Then it gets its share of the connections within
    two seconds, under load too: others give way to it. If all rest, the one whose rest ends first
    is tried at once when a caller asks for a connection.

    It is a connectable of AnyIO, too: :meth:`connect` works without a pool, with the same failover.

    :param remotes: what a pool takes as remotes, without duplicates; or an async function without
        parameters that returns them. It is called before the first connect, after every
        ``refresh``, and once a second while no remote is known or all rest; ``connect_timeout`` is
        its limit. If it fails, or returns none, that is logged and the last ones stay; duplicates
        in what it returns are dropped
    :param order: ``"balanced"`` for the same number of connections to each: a new one goes to the
        replica with the fewest, and callers get an idle one of the replica with the fewest in use;
        ``"in_order"`` for a primary and stand-bys: the first that doesn't rest gets all. When an
        earlier one is back, connections to later ones are retired, half of them at most in each
        ``rest.interval``
    :param rest: a :class:`Retry`: its pauses are how long a replica rests after one, two and more
        failures in a row; its ``count`` has no meaning here
    :param refresh: how often to call the async function, in seconds
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if there are no remotes, or one of them twice, or if an argument makes no
        sense, such as ``refresh`` without an async function
    """

    def __init__(
        self,
        remotes: Iterable[Remote] | Discover,
        *,
        order: Literal["balanced", "in_order"] = "balanced",
        rest: Retry = _REST,
        refresh: float = math.inf,
    ) -> None:
        Choice(("balanced", "in_order"))("order", order)
        Kind(Retry)("rest", rest)
        if not min(rest.interval, rest.max_interval):
            raise ValueError("the interval of rest must be more than 0 seconds")
        if not check_duration("refresh", refresh):
            raise ValueError("refresh must be more than 0 seconds")
        discover, given = None, list[Remote]()
        if callable(remotes):
            discover = remotes
        elif refresh < math.inf:
            raise ValueError("refresh has no effect without an async function that finds remotes")
        else:
            given = check_remotes(remotes)
        self._kind = _Kind(order == "in_order", rest, refresh, discover)
        #: what a pool uses them by, while it runs, and what connect() uses
        self._use = _Use(given)
        self._alone = _Alone(BoundReplicas(self._kind, self._use, _NO_TLS))

    @classmethod
    def from_dns(
        cls,
        host: str,
        port: int,
        *,
        refresh: float = 30.0,
        order: Literal["balanced", "in_order"] = "balanced",
        rest: Retry = _REST,
    ) -> Self:
        """Make replicas of all the addresses of a host name, which is looked up again and again.

        With TLS, the certificate is checked for the name, unless ``tls_hostname`` is given.

        :param host: the name
        :param port: the port of all of them
        :param refresh: how often to look it up, in seconds
        :param order: see the class, also for the other parameter
        :raises TypeError: if an argument is of the wrong type
        :raises ValueError: if an argument makes no sense
        """
        name, number = cast("tuple[str, int]", Endpoint.of((host, port)).target)

        async def look_up() -> list[Remote]:
            found = await getaddrinfo(name, number, type=socket.SOCK_STREAM)
            return [(address[0], number) for *_, address in found]

        replicas = cls(look_up, refresh=refresh, order=order, rest=rest)
        replicas._kind.dns_name = name
        return replicas

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe(tls=False)}>"

    def __getstate__(self) -> dict[str, Any]:
        if self._use.bound is not None:
            raise TypeError(
                f"{self!r} can't be pickled or copied while a pool uses it: make a Replicas for "
                f"each pool"
            )
        return dict(vars(self))

    def describe(self, *, tls: bool) -> str:
        """Return what the replicas are called in logs and errors.

        :param tls: whether TLS is spoken to those that are addresses
        """
        if self._kind.dns_name is not None:
            return make_printable(self._kind.dns_name)
        if self._kind.discover is not None:
            return describe_function(self._kind.discover)
        options = TLSOptions() if tls else None
        return ",".join(_endpoint_of(remote, options).name for remote in self._use.remotes)

    def set(self, remotes: Iterable[Remote]) -> None:
        """Replace the remotes, at any time.

        A remote that is gone gets no new connections: its idle ones are closed, borrowed ones when
        they come back. New remotes get their share within two seconds. The others go on as they
        are. While a pool uses the replicas, call this in the pool's event loop.

        :param remotes: see the class
        :raises RuntimeError: if an async function finds the remotes
        :raises TypeError: if a remote is of the wrong type
        :raises ValueError: if there are no remotes, or one of them twice, or if TLS options of the
            pool would have no effect
        :raises PoolError: in another event loop or thread than the pool's
        """
        if self._kind.discover is not None:
            raise RuntimeError(
                "set() has no use where an async function finds the remotes: have that find others"
            )
        checked = check_remotes(remotes)
        if (bound := self._use.running()) is not None:
            bound.set(checked)
        self._alone.set(checked)
        self._use.remotes = checked

    def states(self) -> Mapping[Remote, ReplicaState]:
        """Return what is known of each replica, by its remote, at any time and from any thread.

        A remote is found in whatever form it is written, as an address or as a connectable. If a
        pool uses the replicas, this is the pool's knowledge of them.
        """
        bound = self._use.running()
        return self._alone.states() if bound is None else bound.states()

    async def connect(self) -> ByteStream:
        """Connect to one of the replicas, without a pool, and go on with the next if that fails.

        A replica that has failed is tried again when its rest is over, or if all rest. There is no
        time limit. A cancellation leaves nothing open.

        :return: the stream
        :raises ~anyio.ConnectionFailed: if none can be connected to, or none is found
        :raises Exception: the error of the only one, if there is no other
        """
        return await self._alone.connect()


def make_target(
    remote: Remote, endpoint: Endpoint, name: str, options: _TLSChoices
) -> Target | BoundReplicas:
    """Return what a pool connects to.

    :param remote: one remote, or several as a :class:`Replicas`
    :param endpoint: the same as an endpoint
    :param name: what one remote is called in logs and errors
    :param options: those of TLS, as :func:`make_endpoint` takes them
    :raises TypeError: if an option is of the wrong type
    :raises ValueError: if an option makes no sense or would have no effect
    """
    if not isinstance(remote, Replicas):
        return Target(remote, make_connectable(endpoint), name)
    kind, use = remote._kind, remote._use  # pyright: ignore[reportPrivateUsage]
    tls, ssl_context, hostname, standard_compatible = options
    if tls and hostname is None:
        hostname = kind.dns_name
    return BoundReplicas(kind, use, (tls, ssl_context, hostname, standard_compatible))


@dataclass
class _Kind:
    """What was chosen about replicas once and for all."""

    in_order: bool
    rest: Retry
    refresh: float
    discover: Discover | None
    dns_name: str | None = None


@dataclass
class _Use:
    """The remotes, if they were given, and which pool uses them, if one does."""

    remotes: list[Remote]
    bound: BoundReplicas | None = None

    def running(self) -> BoundReplicas | None:
        """Return what the pool that uses them now uses, if one does."""
        bound = self.bound
        return None if bound is None or bound.is_unusable() else bound


class BoundReplicas:
    """Replicas as one pool connects to them.

    :param kind: what was chosen about them
    :param use: which pool uses them
    :param options: those of TLS, as :func:`make_endpoint` takes them
    """

    def __init__(self, kind: _Kind, use: _Use, options: _TLSChoices) -> None:
        self._kind, self._use = kind, use
        self._options = options
        # Whatever the remotes: refuse wrong options now, and read the system's certificates once.
        make_endpoint(("localhost", 1), *options)
        tls, ssl_context, hostname, standard_compatible = options
        if tls and ssl_context is None:
            context = ssl.create_default_context()
            self._options = (tls, context, hostname, standard_compatible)
        self.refresh = kind.refresh
        self.find = None if kind.discover is None else self._find
        self._update: Callable[[Sequence[Replica]], object] | None = None
        self._is_lost: Callable[[], bool] | None = None
        self.health = self._make_health()

    def begin(
        self, update: Callable[[Sequence[Replica]], object], is_lost: Callable[[], bool]
    ) -> Health:
        """Belong to a pool from now on, and return what decides about its replicas.

        :param update: takes other replicas than those
        :param is_lost: returns whether the pool can't run any more, although it has not ended
        :raises RuntimeError: if another pool uses them
        """
        if self._use.running() is not None:
            raise RuntimeError(
                "these Replicas are used by another pool at the moment: make a Replicas for each "
                "pool"
            )
        self._use.bound, self._update, self._is_lost = self, update, is_lost
        self.health = self._make_health()
        return self.health

    def is_unusable(self) -> bool:
        """Return whether its pool can't run any more, although that has not ended."""
        return self._is_lost is not None and self._is_lost()

    def end(self) -> None:
        """Belong to no pool any more."""
        if self._use.bound is self:
            self._use.bound = self._update = self._is_lost = None
        self.health.forget_errors()

    def states(self) -> Mapping[Remote, ReplicaState]:
        """Return what is known of each replica, by its remote; see :meth:`Replicas.states`."""
        replicas = [*self.health.replicas]
        return ByRemote([(each.remote, _state_of(each)) for each in replicas])

    def reset(self) -> None:
        """Forget what is known of the replicas."""
        self.health = self._make_health()

    def set(self, remotes: Sequence[Remote]) -> None:
        """Replace the remotes, which were checked, also in the pool."""
        replicas = self._make_all(remotes)
        if self._update is not None:
            self._update(replicas)
        else:
            self.health.update(replicas, 0.0)

    async def _find(self) -> list[Replica]:
        """Call the user's function, and return what it has found.

        :raises ~anyio.ConnectionFailed: if it finds nothing, or what is no remote
        """
        discover = self._kind.discover
        assert discover is not None
        found = await call_async(discover, "the discovery of replicas")
        try:
            return self._make_all(check_remotes(found, drop_duplicates=True))
        except (TypeError, ValueError) as error:
            # These texts are our own: unlike others, they may go to the log.
            raise ConnectionFailed(
                f"the discovery of replicas has returned what makes no sense: {error}"
            ) from error

    def _make_health(self) -> Health:
        kind = self._kind
        health = Health(self._pause, kind.rest.interval, in_order=kind.in_order)
        health.update(self._make_all(self._use.remotes), 0.0)
        return health

    def _pause(self, failures: int) -> float:
        """Return how long to rest; a class of the user's may raise, or say that it is no time."""
        try:
            pause = self._kind.rest.pause(failures)
            if pause > 0:
                return max(pause, _SHORTEST_REST)
            text = f"{quoted(pause)} is not more than 0 seconds"
        except BaseException as error:
            # It is asked in the middle of an event of the state machine.
            if ends_program(error):
                raise
            text = describe_error(error)
        _logger.error("rest gave no pause that can be used, the default's is taken: %s", text)
        return _REST.pause(failures)

    def _make_all(self, remotes: Iterable[Remote]) -> list[Replica]:
        return [self._make(remote) for remote in remotes]

    def _make(self, remote: Remote) -> Replica:
        endpoint = make_endpoint(remote, *self._options)
        target = Target(remote, make_connectable(endpoint), endpoint.name)
        return Replica(remote, target, _endpoint_of(remote).key, endpoint.name)


class _Alone:
    """Connect to replicas without a pool.

    :param bound: the replicas
    """

    def __init__(self, bound: BoundReplicas) -> None:
        self._bound = bound
        self._token: object = None
        self._finding: Lock | None = None
        self._found_at = -math.inf
        self._error: Exception | None = None

    @property
    def health(self) -> Health:
        """What is known of the replicas."""
        return self._bound.health

    def states(self) -> Mapping[Remote, ReplicaState]:
        """Return what is known of each replica."""
        return self._bound.states()

    def set(self, remotes: Sequence[Remote]) -> None:
        """Replace the remotes."""
        self._bound.set(remotes)

    async def connect(self) -> ByteStream:
        """Connect to one of them; see :meth:`Replicas.connect`."""
        await self._find(self._enter_loop())
        health = self.health
        entry: PoolEntry[Any] = PoolEntry(0)
        failed: list[tuple[str, Exception]] = []
        replica = health.choose(alone_at=current_time())
        try:
            while replica is not None:
                health.begin(entry, replica)
                try:
                    stream = await replica.target.connectable.connect()
                except Exception as error:
                    failed.append((replica.name, error))
                    entry.tried += (replica,)
                    # Kept itself, the error would keep the frames of whoever has called this.
                    health.fail(entry, without_frames(error), current_time())
                    replica = health.choose(entry.tried, alone_at=current_time())
                    if replica is None:
                        if len(failed) == 1:
                            raise
                        raise sum_up(failed)  # noqa: B904
                except BaseException:
                    # Cancelled, and nothing is open.
                    health.lose(entry)
                    raise
                else:
                    health.succeed(entry)
                    health.answer(entry, current_time())
                    replica.lose(entry)
                    return cast("ByteStream", stream)
            raise ConnectionFailed("no replica is known")
        finally:
            # Nobody wants to know; and what the errors lead to must not lead back to them.
            health.news.clear()
            failed.clear()

    def _enter_loop(self) -> Lock:
        """Return the lock of the running event loop; in another one, times mean something else."""
        token = current_token()
        if self._finding is None or token != self._token:
            if self._token is not None:
                self._bound.reset()
            self._token, self._finding, self._found_at = token, Lock(), -math.inf
        return self._finding

    async def _find(self, finding: Lock) -> None:
        """Find the remotes, if that is due.

        :param finding: is held meanwhile: who comes then uses those that are known, if any are
        :raises ~anyio.ConnectionFailed: if none is known
        """
        find = self._bound.find
        if find is None or (self.health.replicas and finding.locked()):
            return
        async with finding:
            health, now = self.health, current_time()
            urgent = not health.replicas or health.all_rest()
            interval = min(1.0, self._bound.refresh) if urgent else self._bound.refresh
            if now >= self._found_at + interval:
                # Cancelled, it is not due again where something is known: it may hang.
                self._found_at = now if health.replicas else -math.inf
                try:
                    health.update(await find(), now)
                    self._error = None
                except Exception as error:
                    self._found_at = now
                    self._error = without_frames(error)
                    if not health.replicas:
                        raise _describe_failure(error) from error
                    text = "the discovery of replicas failed: %s"
                    _logger.warning(text, describe_error(error))
                self._found_at = now
        if not health.replicas:
            # Those who come within a second get what the last one has met.
            met = self._error or LookupError("nothing was found")
            raise _describe_failure(met) from met


def _describe_failure(error: Exception) -> ConnectionFailed:
    return ConnectionFailed(f"no replica is known: {describe_error(error)}")


def _state_of(replica: Replica) -> ReplicaState:
    return ReplicaState(
        replica.resting, replica.failures, replica.last_error, replica.size, replica.in_use
    )


def _endpoint_of(remote: Remote, tls: TLSOptions | None = None) -> Endpoint:
    """Return the endpoint of a remote; what is no address has no options of TLS."""
    return Endpoint.of(remote, None if isinstance(remote, ByteStreamConnectable) else tls)


def check_remotes(remotes: object, *, drop_duplicates: bool = False) -> list[Remote]:
    """Check a collection of remotes, and return a list of them.

    :param drop_duplicates: whether one may be there twice, and is taken once
    :raises TypeError: if it is not a collection, or if one is of the wrong type
    :raises ValueError: if it is empty, or one makes no sense, or is there twice
    """
    given = remotes
    _refuse_nested(given)
    if (single := _find_single(remotes)) is not None:
        raise TypeError(
            f"remotes must be a collection of remotes, not {quoted_remote(remotes)}: write "
            f"[{quoted_remote(single)}]"
        )
    # A mapping would be taken for its keys.
    if not isinstance(remotes, Iterable) or hasattr(given, "keys"):
        raise TypeError(
            f"remotes must be a collection of remotes, or an async function that returns one, "
            f"not {quoted_remote(given)}"
        )
    found: dict[Hashable, Remote] = {}
    for remote in cast("Iterable[Remote]", remotes):
        endpoint = Endpoint.of(remote)
        _refuse_nested(remote)
        if endpoint.key in found and not drop_duplicates:
            raise ValueError(f"the remote {endpoint.name} is there twice")
        found.setdefault(endpoint.key, remote)
    if not found:
        raise ValueError("there must be one remote at least")
    return [*found.values()]


def _refuse_nested(remote: object) -> None:
    # A pool of connections would be a pool in a pool.
    if isinstance(remote, RemoteGroup) or hasattr(remote, "acquire_nowait"):
        raise TypeError(f"a {type(remote).__name__} can't be one of several replicas")


_SINGLE_KINDS: tuple[type[object], ...] = (str, bytes, os.PathLike, ByteStreamConnectable)


def _find_single(remotes: object) -> object:
    """Return the remote if this is one instead of a collection of them."""
    if isinstance(remotes, (tuple, list)):
        # A host and a port: an int is no remote itself.
        items = tuple(cast("Iterable[object]", remotes))
        hosts = (str, IPv4Address, IPv6Address)
        is_address = len(items) == 2 and isinstance(items[0], hosts) and isinstance(items[1], int)
        return items if is_address else None
    # Asked of the class: a checker would take what it finds for its type.
    return remotes if issubclass(type(remotes), _SINGLE_KINDS) else None
