"""SVIDs and trust bundles as plain values.  Certificates and keys are DER; nothing here does cryptography."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vestibule.spiffe.ids import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A certificate with its private key.

    ``chain`` is leaf first and leaves out the trust bundle's own certificates; ``key`` is PKCS #8 DER,
    unencrypted, and never part of the value's ``repr``.  ``serial`` is the leaf's serial number.
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A signed statement of who somebody is, good for certain audiences and for a short time (JWT-SVID.md).

    ``token`` is the statement itself (JWS compact).  Whoever has it can use it, so it is never part of the
    value's ``repr``.  ``claims`` is everything that it says; ``issued_at`` is missing where it does not say that.
    """

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None = None
    key_id: str
    token: str = field(repr=False)
    claims: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitSvid:
    """A signed statement of who has a key (WIT-SVID.md): worth nothing without a proof of having it.

    ``public_key`` (DER) is the holder's, who signs with ``algorithm``; ``token`` is the statement (JWS compact).
    """

    spiffe_id: SpiffeId
    expires_at: datetime
    issued_at: datetime | None = None
    not_before: datetime | None = None
    key_id: str
    public_key: bytes
    algorithm: str
    token: str = field(repr=False)
    claims: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAuthority:
    """A key that JWT-SVIDs are verified with; ``public_key`` is a DER SubjectPublicKeyInfo.

    ``expires_at`` is when it has signed nothing that is still good; bundle documents do not say it.  What a
    ``tainted`` one signed is still valid, and about not to be: whoever holds it asks for another.
    """

    key_id: str
    public_key: bytes
    expires_at: datetime | None = None
    tainted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """What a trust domain's SVIDs are verified with: the certificates of X509-SVIDs, the keys of JWT- and WIT-SVIDs.

    ``sequence`` grows with every change of the content; ``refresh_hint`` is in seconds, 0 for none.
    ``tainted_x509`` are those of ``x509_authorities`` that will be revoked soon: what leads to them is still
    valid, and whoever holds it asks for another.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...]
    jwt_authorities: tuple[JwtAuthority, ...] = ()
    sequence: int = 0
    refresh_hint: int = 0
    tainted_x509: frozenset[bytes] = frozenset()
    wit_authorities: tuple[JwtAuthority, ...] = ()
