"""What a stream wraps once it was closed or given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from anyio import ClosedResourceError
from anyio.abc import ByteStream


class _ShutStream(ByteStream):
    """Refuse every use."""

    async def receive(self, max_bytes: int = 65536) -> NoReturn:
        raise ClosedResourceError

    async def send(self, item: bytes) -> NoReturn:
        raise ClosedResourceError

    async def send_eof(self) -> NoReturn:
        raise ClosedResourceError

    async def aclose(self) -> None:
        """Do nothing: closing twice does no harm."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        raise ClosedResourceError


SHUT = _ShutStream()
