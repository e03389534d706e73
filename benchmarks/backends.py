"""The event loops that are measured, as far as they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

_BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

BACKENDS = tuple(name for name in _BACKENDS if find_spec(name.rpartition("+")[2]))


def run_options(backend: str) -> dict[str, Any]:
    """Return the keyword arguments with which ``anyio.run`` chooses a backend."""
    name, options = _BACKENDS[backend]
    return {"backend": name, "backend_options": options}


def is_asyncio(backend: str) -> bool:
    """Tell whether what is made for asyncio only can take part."""
    return _BACKENDS[backend][0] == "asyncio"
