"""A request's head: the headers that matter, each at most once."""

from __future__ import annotations

import re
from typing import Final
from uuid import uuid4

_CERTIFICATE: Final = b"x-forwarded-client-cert"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_WANTED: Final = frozenset(
    {_CERTIFICATE, b"authorization", b"content-type", b"content-length", b"host", b"x-request-id"}
)


class Head:
    """``twice`` names a header that came several times: neither of them counts."""

    __slots__ = (
        "authorization",
        "certificate",
        "content_type",
        "host",
        "length",
        "request_id",
        "twice",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        found: dict[bytes, bytes] = {}
        self.twice = ""
        for name, value in headers:
            if name in _WANTED:
                if name in found:
                    self.twice = name.decode("ascii")
                found[name] = value
        get = found.get
        self.certificate = get(_CERTIFICATE, b"")
        self.authorization = get(b"authorization", b"")
        self.content_type = get(b"content-type", b"")
        self.length = get(b"content-length", b"")
        self.host = get(b"host", b"").decode("latin-1")
        sent = get(b"x-request-id", b"")
        self.request_id = sent.decode("ascii") if _REQUEST_ID.fullmatch(sent) else str(uuid4())

    def __repr__(self) -> str:
        return f"Head(request_id={self.request_id!r})"
