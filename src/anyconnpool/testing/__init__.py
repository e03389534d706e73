"""Tools for testing programs that talk over connections: a proxy that misbehaves when told to."""

from __future__ import annotations

from anyconnpool.testing._fault_proxy import FaultProxy
from anyconnpool.testing._faults import Faults, Flow
from anyconnpool.testing._proxied import ProxiedConnection

__all__ = ["FaultProxy", "Faults", "Flow", "ProxiedConnection"]
