"""Say on what was measured: enough to judge the figures by, nothing that names the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.peers import PEERS

_PACKAGES = ("anyconnpool", "anyio", "trio", "uvloop", *PEERS)


def machine_facts() -> dict[str, Any]:
    """Return what JSON can hold."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": dict(_versions()),
    }


def _versions() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found
