"""The authority that certifies the tests' servers, and a client that trusts it."""

from __future__ import annotations

import ssl
from functools import cache

import trustme


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def client_context() -> ssl.SSLContext:
    """Return a context that trusts the authority, with the options of this Python's default."""
    context = ssl.create_default_context()
    authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    return context
