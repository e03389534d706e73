"""Tell observers what happens; nothing that they raise may disturb the pool."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from anyconnpool.events import Observer, PoolEvent

_logger = logging.getLogger("anyconnpool.observers")


def tell(observers: Iterable[Observer], event: PoolEvent) -> None:
    """Call each observer with an event, one after the other; an error is logged.

    To be called where nothing would be lost if an observer ended the program.
    """
    for observer in observers:
        try:
            observer(event)
        except Exception:
            _logger.exception("pool %s: an observer failed at %s", event.pool, type(event).__name__)
