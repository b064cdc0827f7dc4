"""What a scan saw of an endpoint: plain values, neither good nor bad.

Texts that an endpoint wrote (names in certificates, banners) are made ``printable`` before they stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

LONGEST_TEXT: Final = 300
PUBLIC_AUTHORITIES: Final = "the public authorities"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Target:
    """Where an endpoint is; an IPv6 ``host`` is without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Outcome(Enum):
    """What became of a caller."""

    ALERT = "alert"
    """TLS refused it, and said so."""
    CLOSED = "closed"
    """The connection was closed right after the handshake, before anything was asked."""
    REFUSED_ABOVE = "refused-above-tls"
    """TLS let it in, and HTTP or the database said that it may not, for want of a certificate."""
    SERVED = "served"
    """It was let in."""
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a caller was answered; ``detail`` is the alert or the first line of the answer."""

    outcome: Outcome
    detail: str = ""

    @property
    def let_in(self) -> bool:
        return self.outcome is Outcome.SERVED

    @property
    def refused(self) -> bool:
        return self.outcome in (Outcome.ALERT, Outcome.CLOSED, Outcome.REFUSED_ABOVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate; ``subject`` and ``issuer`` are RFC 4514 texts, ``key_bits`` is 0 for keys without a size."""

    subject: str
    issuer: str
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    key: str
    key_bits: int = 0
    signature_hash: str = ""
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    spiffe_id: str = ""
    """The one SPIFFE ID, if there is exactly one URI and it is well-formed."""
    problem: str = ""
    """Why it can be no SVID, where it has URIs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whether the chain leads to authorities; ``by`` says whose, empty where there were none to ask."""

    by: str = ""
    problem: str = ""

    @property
    def verified(self) -> bool:
        return bool(self.by) and not self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificates:
    """What the endpoint wants of its callers' certificates.

    ``without``: a caller with none; ``foreign``: one that nobody can know; ``own``: that of whoever scans, ``own_id``.
    """

    requested: bool
    authorities: tuple[str, ...] = ()
    without: Answer
    foreign: Answer | None = None
    own: Answer | None = None
    own_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A version of TLS that was agreed upon, and the cipher suite that the endpoint chose."""

    version: str
    cipher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What was said in handshakes."""

    accepted: tuple[Accepted, ...]
    weak_ciphers: tuple[str, ...] = ()
    alpn: str = ""
    chain: tuple[Certificate, ...] = ()
    trust: Trust = Trust()
    host_name_fits: bool | None = None
    clients: ClientCertificates
    resumes: bool = False
    """A caller who comes back is taken for the one of before, without being asked for a certificate."""

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(each.version for each in self.accepted)

    @property
    def leaf(self) -> Certificate | None:
        return self.chain[0] if self.chain else None


class Plain(Enum):
    """What a request without TLS came to."""

    NOT_ASKED = "not-asked"
    REFUSED = "refused"
    HTTP = "http"
    HTTP2 = "http2"
    REDIRECT = "redirect"
    """To https."""
    OTHER = "other"
    """A text of another protocol."""
    GARBAGE = "garbage"
    """Bytes that are neither."""
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext:
    """``detail`` is the first line of what was answered."""

    kind: Plain = Plain.NOT_ASKED
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a scan saw of one endpoint.

    ``unreachable`` says why there was no connection; ``troubles`` are where it stalled, flooded or spoke nonsense.
    """

    target: Target
    seen: datetime
    unreachable: str = ""
    troubles: tuple[str, ...] = ()
    tls: Tls | None = None
    plaintext: Plaintext = Plaintext()


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    """What somebody else wrote, safe for terminals and logs: one line, no control characters, bounded."""
    shown = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[: longest + 1]
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
