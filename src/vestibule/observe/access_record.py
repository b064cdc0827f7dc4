"""One access record: what a proxy reports about one request, connection or refused handshake.

The schema is final in the sense that fields are only ever added; ``SCHEMA`` names it.  Who reports is taken
from attestation, never from the proxy's own words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from vestibule.observe.codes import LOG_UNREADABLE

SCHEMA: Final = "vestibule.access/v1"


class Layer(Enum):
    """What the record is about: an HTTP request, a TCP connection, or a connection that no filter chain took."""

    HTTP = "http"
    TCP = "tcp"
    LISTENER = "listener"


class Direction(Enum):
    """Seen from the reporting proxy: calls arriving for its app, or calls its app makes."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Verdict(Enum):
    """How the reporting proxy disposed of it.

    ``ALLOWED``: passed on to the upstream.  ``DENIED``: refused by a rule or a rate limit, or because no rule
    allows it.  ``REFUSED``: the connection did not get as far as a request (no TLS, no trusted certificate).
    ``FAILED``: allowed, but no answer came from the upstream.
    """

    ALLOWED = "allowed"
    DENIED = "denied"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRecord:
    """Texts are empty and numbers ``None`` where the proxy had nothing to say.

    ``version`` is that of the instance that was called, where its service declares versions; ``rule`` may also be a
    rate limit's name.  ``plaintext``: the call came without TLS, so that nobody knows from whom.
    Durations are milliseconds from the first byte: ``duration_ms`` until the end, ``upstream_ms`` until the
    upstream's first byte.  ``path`` is as it was asked, with the query removed.  ``trace_id`` is that of W3C's trace
    context.  ``shadow_verdict`` (``allowed`` or ``denied``) and ``shadow_rule`` are what would have been decided if
    rules in shadow mode counted; empty where there are none.  ``decision_id`` is what a decision service called its
    answer, where one was asked.  ``mcp_method`` is what a client of MCP asked for,
    ``reply`` if it answers its server, and ``mcp_target`` the tool, prompt or resource that it named, cut to 500
    characters.  Denials have an error ``code``, ``where`` in the intent what denied is written (the file, where it is
    that no rule allows the call; empty for what is written nowhere or not known) and the ``intent_commit``, where
    intents come from git.
    """

    time: datetime
    layer: Layer
    direction: Direction
    verdict: Verdict
    reporter_service: str
    reporter_spiffe_id: str
    reporter_instance: str
    source_spiffe_id: str = ""
    source_address: str = ""
    destination_service: str = ""
    destination_port: str = ""
    destination_spiffe_id: str = ""
    destination_address: str = ""
    request_id: str = ""
    method: str = ""
    authority: str = ""
    path: str = ""
    protocol: str = ""
    status: int | None = None
    flags: tuple[str, ...] = ()
    details: str = ""
    route: str = ""
    rule: str = ""
    tls_version: str = ""
    peer_serial: str = ""
    transport_failure: str = ""
    bytes_received: int = 0
    bytes_sent: int = 0
    duration_ms: float | None = None
    upstream_ms: float | None = None
    attempts: int | None = None
    intent_version: str = ""
    version: str = ""
    plaintext: bool = False
    trace_id: str = ""
    shadow_verdict: str = ""
    shadow_rule: str = ""
    decision_id: str = ""
    mcp_method: str = ""
    mcp_target: str = ""
    code: str = ""
    where: str = ""
    intent_commit: str = ""

    @classmethod
    def from_json(cls, line: str) -> AccessRecord:
        """Read one line of the log; unknown fields of a newer writer are left out.  Raises: VST8200."""
        try:
            document = json.loads(line)
            if document.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
            known["time"] = datetime.fromisoformat(known["time"])
            known["layer"] = Layer(known["layer"])
            known["direction"] = Direction(known["direction"])
            known["verdict"] = Verdict(known["verdict"])
            known["flags"] = tuple(known.get("flags", ()))
            return cls(**known)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LOG_UNREADABLE.error(f"not a record of {SCHEMA}: {error}") from error
