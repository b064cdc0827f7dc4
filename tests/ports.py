"""Ports for what binds them itself, a moment later."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

_FIRST: Final = 20_000
_SHARE: Final = 1_500
_SHARES: Final = 8
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody has, and nobody takes before it is used.

    Below those that the kernel gives to outgoing connections and to servers that let it choose; of the share of this
    pytest worker, since Envoys that open one port at the same time both succeed and divide what comes in; never twice.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % _SHARES
    first = _FIRST + worker * _SHARE
    while True:
        port = first + secrets.randbelow(_SHARE)
        if port not in _given and _is_free(port):
            if len(_given) > _SHARE // 2:
                _given.clear()
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
