"""Hosts outside of the platform, which are called as everybody calls them: by name, with the public authorities.

They are named one by one, never guessed; what is not named is called with mutual TLS or not at all.  Our certificate is
not shown to them.  Each call leaves a line in the log ``vestibule.sdk.outside``, in JSON: who called (our SPIFFE ID),
what (host, method, path without its query), and what became of it (status, or the kind of failure; seconds).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

from vestibule.errors import VestibuleError
from vestibule.sdk.codes import MALFORMED_OUTSIDE
from vestibule.sdk.holder import Holder

HTTPS: Final = 443
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outside:
    """The hosts that are outside: names or addresses with their ports."""

    places: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[str]) -> Self:
        """Read ``api.stripe.com`` (port 443), ``api.stripe.com:8443`` and ``*.example.com`` (all names below).

        Raises: VST2432.
        """
        if isinstance(hosts, str):
            raise MALFORMED_OUTSIDE.error("the hosts outside are a list of names, and one text was given")
        return cls(frozenset(_place(each) for each in hosts))

    def has(self, host: str, port: int | None) -> bool:
        """Whether a host (as URLs have it, in any case) is outside at this port; None is that of HTTPS."""
        port, name = port or HTTPS, host.lower().rstrip(".").strip("[]")
        if (name, port) in self.places:
            return True
        above = name.split(".")
        return any((".".join(("*", *above[start:])), port) in self.places for start in range(1, len(above)))


@dataclass(slots=True)
class OutsideCall:
    """One call that is being made; ``status`` is set once it is known."""

    host: str
    method: str
    path: str
    status: int | None = None
    began: float = field(default_factory=time.monotonic)

    def log(self, source: Holder, failure: BaseException | None = None) -> None:
        """Write the line."""
        line = {
            "caller": _caller(source),
            "host": self.host,
            "method": self.method,
            "path": self.path.partition("?")[0],
            "status": self.status,
            "seconds": round(time.monotonic() - self.began, 6),
        }
        if failure is not None:
            line["failure"] = type(failure).__name__
        _log.info("%s", json.dumps(line))


@contextmanager
def logged(source: Holder, host: str, method: str, path: str) -> Iterator[OutsideCall]:
    """The time in which a call is made; its line is written at the end."""
    call = OutsideCall(host, method, path)
    try:
        yield call
    except BaseException as error:
        call.log(source, error)
        raise
    call.log(source)


def _caller(source: Holder) -> str | None:
    """Who calls.  Without an identity the call is made all the same: nobody outside asks for it."""
    try:
        return str(source.svid.spiffe_id)
    except VestibuleError:
        return None


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text, str(HTTPS)
    name = host.lower().rstrip(".").strip("[]")
    star = name.removeprefix("*.")
    is_name = star and "*" not in star and not any(each in "/@?# " for each in star)
    if not is_name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise MALFORMED_OUTSIDE.error(
            f"{text[:200]!r} is no host, such as api.example.com or api.example.com:8443"
        )
    return name, int(port)
