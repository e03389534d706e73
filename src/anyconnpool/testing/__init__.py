"""Tools for testing programs that talk over connections.

A remote in memory, a proxy on real sockets that misbehaves on demand, virtual clocks, and an
assertion for the end of a test.
"""

from __future__ import annotations

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
