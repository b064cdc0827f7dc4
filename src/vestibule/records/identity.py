"""The records of the identity service."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from vestibule.spiffe import Selector, SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry: under ``parent_id``, whoever has all ``selectors`` is ``spiffe_id``.

    ``id``, ``revision`` and ``created_at`` are given by the store (``id`` may be chosen by the caller).
    A TTL of ``None`` means the server's default.  ``revision`` starts at 0 and grows by one per update.

    What SPIRE's entries do not have: ``labels`` (sorted, for people and filters), ``jwt_claims`` (what goes into
    JWT-SVIDs beside the registered claims: a JSON object in canonical form, empty for none), and templates.  A
    template has a ``path_template`` (``spiffe_id`` is its literal beginning), perhaps ``dns_templates`` and variables
    in its claims, and gives at most ``max_identities`` SPIFFE IDs (0: the server's default).  An entry that was derived
    from one names it in ``template_id``.
    """

    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[Selector]
    id: str = ""
    x509_svid_ttl: timedelta | None = None
    jwt_svid_ttl: timedelta | None = None
    federates_with: tuple[str, ...] = ()
    admin: bool = False
    downstream: bool = False
    expires_at: datetime | None = None
    dns_names: tuple[str, ...] = ()
    revision: int = 0
    store_svid: bool = False
    hint: str = ""
    created_at: datetime | None = None
    disable_x509_svid_prefetch: bool = False
    jwt_svid_include_jti: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    jwt_claims: str = ""
    path_template: str = ""
    dns_templates: tuple[str, ...] = ()
    max_identities: int = 0
    template_id: str = ""

    @property
    def is_template(self) -> bool:
        """Whether it gives no identity itself: entries are derived from it, one for each set of values."""
        return bool(self.path_template)

    @property
    def claims(self) -> dict[str, Any]:
        """``jwt_claims``, read."""
        return dict(json.loads(self.jwt_claims)) if self.jwt_claims else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """An attested node agent.  Its SVID is known by serial number: the current one, and the one just issued.

    ``new_serial`` becomes ``serial`` when the agent first uses it, so a renewal whose answer was lost
    does not lock the agent out.  ``key_sha256`` and ``new_key_sha256`` (hex) are of their public keys, by which the
    agent may return after they expired; empty in records from before keys were kept.
    """

    spiffe_id: SpiffeId
    attestation_type: str
    serial: str
    expires_at: datetime
    new_serial: str = ""
    new_expires_at: datetime | None = None
    selectors: frozenset[Selector] = frozenset()
    banned: bool = False
    can_reattest: bool = False
    version: str = ""
    attested_at: datetime | None = None
    key_sha256: str = ""
    new_key_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A secret that lets one agent join once.  Only a hash of the token is ever stored."""

    token: str = field(repr=False)
    expires_at: datetime
    agent_id: SpiffeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """What a workload may administer besides nothing: its powers, and the scope that bounds them.

    ``powers`` and ``features`` are names that ``identity.administration`` knows.  ``paths`` bound the SPIFFE IDs of
    entries, tokens' aliases and minted SVIDs, ``parents`` the parent IDs and agents: each is a path, itself and all
    below it (``/`` is everything).  ``dns_suffixes`` bound DNS names.  A TTL of ``None`` sets no ceiling.
    """

    id: str
    spiffe_id: SpiffeId
    powers: tuple[str, ...]
    paths: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    dns_suffixes: tuple[str, ...] = ()
    max_x509_svid_ttl: timedelta | None = None
    max_jwt_svid_ttl: timedelta | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    created_by: str = ""


class AuthorityState(Enum):
    """The life of a signing authority; which state may follow which stands in ``identity.lifecycle``."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An X.509 signing authority.  ``id`` is the subject key identifier in lower-case hex.

    ``key_id`` names the private key in the key manager; ``chain`` is DER, the authority's own certificate
    first, up to but without the root (for a self-signed one, that alone).  ``upstream_authority_id`` is the
    subject key identifier of the root at its end, empty for a self-signed one.  ``not_after`` is the earliest
    end of all of them.  ``owner`` is the server that has the key, where several share a database.
    """

    id: str
    key_id: str
    chain: tuple[bytes, ...]
    state: AuthorityState
    not_before: datetime
    not_after: datetime
    upstream_authority_id: str = ""
    owner: str = ""

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What follows a leaf in its chain: nothing below a self-signed authority, which is in the bundle."""
        return self.chain if self.upstream_authority_id else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtKey:
    """A signing authority of JWT-SVIDs.  ``id`` is their ``kid``: the key identifier in lower-case hex.

    ``key_id`` names the private key in the key manager; ``public_key`` is a DER SubjectPublicKeyInfo; ``owner`` is
    the server that has the key, where several share a database.
    """

    id: str
    key_id: str
    public_key: bytes
    state: AuthorityState
    not_before: datetime
    not_after: datetime
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRoot:
    """A root of an upstream authority that is tainted or revoked here.  ``id`` is its subject key identifier."""

    id: str
    state: AuthorityState
    not_before: datetime
    not_after: datetime


class AppendedKind(Enum):
    """What an appended authority verifies."""

    X509 = "x509"
    JWT = "jwt"
    WIT = "wit"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendedAuthority:
    """An authority that an operator put into the trust domain's bundle, and whose private key is elsewhere.

    ``id`` is a SHA-256 in hex of what it is.  ``material`` is a DER certificate (X.509) or SubjectPublicKeyInfo
    (tokens, with their ``kid`` as ``key_id``), ``not_before`` when it was appended, ``not_after`` when it leaves
    the bundle, if ever.
    """

    id: str
    kind: AppendedKind
    key_id: str
    material: bytes
    not_before: datetime
    not_after: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedJwtKey:
    """A JWT signing authority of a downstream server, which ``publisher`` asked to be put into the bundle.

    ``id`` is its ``kid``, ``public_key`` a DER SubjectPublicKeyInfo, ``not_before`` when it was published first.
    """

    id: str
    public_key: bytes
    publisher: SpiffeId
    state: AuthorityState
    not_before: datetime
    not_after: datetime
