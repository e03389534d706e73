"""Allow this process thousands of open sockets."""

from __future__ import annotations

import resource

#: descriptors that are left for other things
_SPARE = 200


def allow_sockets(wanted: int) -> int:
    """Raise the limit of open files as far as needed and allowed.

    :param wanted: how many sockets
    :return: how many of them there can be
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, wanted + _SPARE)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(wanted, limit - _SPARE)
