"""Tools for testing programs that talk over connections.

A remote in memory, a proxy on real sockets that misbehaves on demand, virtual clocks, and an
assertion for the end of a test.
"""

from __future__ import annotations

from typing import Any as _Any

from anyconnpool.testing._assert_clean import assert_clean
from anyconnpool.testing._fault_proxy import FaultProxy
from anyconnpool.testing._faults import Faults, Flow
from anyconnpool.testing._memory_connectable import MemoryConnectable
from anyconnpool.testing._proxied import ProxiedConnection
from anyconnpool.testing._scripted_peer import ScriptedPeer
from anyconnpool.testing._virtual_clock import AutojumpLoop, virtual_clock_backend

__all__ = [
    "AutojumpLoop",
    "FaultProxy",
    "Faults",
    "Flow",
    "MemoryConnectable",
    "ProxiedConnection",
    "ScriptedPeer",
    "assert_clean",
    "virtual_clock_backend",
]

# What is public says where it is to be imported from: in tracebacks, and to pickle.
_value: _Any = None
for _value in [globals()[_name] for _name in __all__]:
    if _value.__module__.startswith(f"{__name__}."):
        _value.__module__ = __name__
del _value
