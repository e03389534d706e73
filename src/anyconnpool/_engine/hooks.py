"""Run the hooks for open connections: ``check``, ``on_release``, ``on_unread`` and ``on_close``."""

from __future__ import annotations

from collections.abc import Callable

from anyio import fail_after

from anyconnpool._core.states import Action, PoolEntry
from anyconnpool._engine.connection import run_hook
from anyconnpool._exceptions import PoolError
from anyconnpool._settings import Hook, Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.transport import Transport
from anyconnpool._util.cancellation import fence
from anyconnpool._util.liveness import Liveness
from anyconnpool._util.log import GuardedLogger, OutageLog, describe_error
from anyconnpool.events import HookEnded, notify

_logger = GuardedLogger("anyconnpool.pool")


class HookRunner:
    """Run one hook on one connection after the other, and tell how it went.

    :param role: which hook, as in "check"
    :param hook: the hook
    :param reason: why a connection is closed on which it fails
    :param settings: the pool's settings
    :param now: returns the time, in seconds
    """

    def __init__(
        self,
        role: str,
        hook: Hook,
        reason: CloseReason,
        settings: Settings,
        now: Callable[[], float],
    ) -> None:
        #: which hook, as in "check"
        self.role = role
        self._hook = hook
        self._reason = reason
        self._settings = settings
        self._now = now
        self._log = OutageLog(_logger, settings.name, f"the {role} hook")
        self._wanted = Liveness.UNREAD if role == "on_unread" else Liveness.ALIVE

    async def run(self, entry: PoolEntry[Transport]) -> Liveness | CloseReason:
        """Run the hook within ``check_timeout``, unless a look shows that it is not called for.

        Cancelled, the connection is in doubt for good.

        :return: what the connection looks like now, or why it has to be closed
        """
        seen = entry.look()
        if seen is not self._wanted:
            return seen
        if entry.transport.early:
            # Those bytes are for the first borrower, and no hook may read them.
            return self._reason
        if self.role == "on_release":
            entry.unreset = False
        began = self._now()
        try:
            with fence("the hook", PoolError), fail_after(self._settings.check_timeout):
                await run_hook(
                    entry, self._settings, self._now, self._hook, greeting=False, role=self.role
                )
        except Exception as error:
            self._log.failed(error, self._now())
            _notify(self._settings, self.role, self._now() - began, error)
            return self._reason
        self._log.succeeded(self._now())
        _notify(self._settings, self.role, self._now() - began, None)
        # The peer may have said more, or hung up, after its answer.
        return self._judge(entry.look())

    def _judge(self, seen: Liveness) -> Liveness | CloseReason:
        """Return what is to be made of what a connection looks like after the hook."""
        if seen is Liveness.ALIVE or self.role == "on_unread":
            return seen
        if self.role == "on_release":
            answered = seen is Liveness.UNREAD and self._settings.on_unread is not None
            return seen if answered else self._reason
        # What comes after the answer to a check may belong to it.
        return CloseReason.UNREAD_DATA if seen is Liveness.UNREAD else seen


def make_runners(settings: Settings, now: Callable[[], float]) -> dict[Action, HookRunner]:
    """Make a runner for each hook that a pool has for its open connections.

    :param settings: the pool's settings
    :param now: returns the time, in seconds
    """
    hooks = {
        Action.CHECK: ("check", settings.check, CloseReason.CHECK_FAILED),
        Action.RESET: ("on_release", settings.on_release, CloseReason.RELEASE_FAILED),
        Action.ANSWER: ("on_unread", settings.on_unread, CloseReason.UNREAD_DATA),
    }
    return {
        action: HookRunner(role, hook, reason, settings, now)
        for action, (role, hook, reason) in hooks.items()
        if hook is not None
    }


async def say_goodbye(
    entry: PoolEntry[Transport], settings: Settings, now: Callable[[], float], limit: float
) -> None:
    """Run ``on_close`` on a connection that is about to be closed, if that is still good.

    Whatever goes wrong is logged only, except for a cancellation by a scope, which stops it, and
    for what ends the program.

    :param limit: how long it may take, in seconds
    """
    hook = settings.on_close
    if hook is None or not entry.parts_well or entry.transport.early:
        return
    if entry.look() is not Liveness.ALIVE:
        return
    began = now()
    failure: Exception | None = None
    try:
        with fence("the hook", PoolError), fail_after(limit):
            await run_hook(entry, settings, now, hook, greeting=False, role="on_close")
    except Exception as error:
        _logger.debug("pool %s: the on_close hook failed: %s", settings.name, describe_error(error))
        failure = error
    try:
        _notify(settings, "on_close", now() - began, failure)
    finally:
        # Its traceback leads to this frame.
        failure = None


def _notify(settings: Settings, role: str, duration: float, error: Exception | None) -> None:
    """Notify the observers that a hook has ended; they may end the program."""
    if settings.observers:
        notify(settings.observers, HookEnded(settings.name, role, duration, error))
