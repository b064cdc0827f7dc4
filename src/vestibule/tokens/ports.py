"""What the token service stands on, and what its doors ask of it: clients, who may have which token, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

from vestibule.errors import Where
from vestibule.spiffe import SpiffeId


class Proof(Enum):
    """How a client has proved who it is (draft-ietf-oauth-spiffe-client-auth; RFC 8705; RFC 7523)."""

    X509_SVID = "spiffe_x509"
    JWT_SVID = "spiffe_jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks.  ``thumbprint`` is the SHA-256 of its certificate in DER, where it came with one."""

    spiffe_id: SpiffeId
    proof: Proof = Proof.X509_SVID
    thumbprint: bytes | None = None


class Verb(Enum):
    """What a client does to come by a token."""

    MINT = "mint"
    """It gets one of its own (client_credentials)."""
    EXCHANGE = "exchange"
    """It gives a token that was made for this audience, to get one for another (RFC 8693: the source)."""
    RECEIVE = "receive"
    """It gets one for this audience in exchange, to act for whom the given token is of (RFC 8693: the target)."""
    ADMIT = "admit"
    """It gets one for this audience, for the subject of a token of an outside issuer (RFC 7523, section 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asks for.

    ``scopes`` are those of the new token, also where the question is whether a given one may be exchanged for it.
    ``subject`` holds the claims of the token that is given, already verified; ``issuer`` is what the intent calls its
    issuer (``mesh.yaml``), empty for our own tokens.
    """

    client: SpiffeId
    verb: Verb
    audience: str
    scopes: tuple[str, ...] = ()
    subject: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    issuer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDecision:
    """May it be had, and why.

    ``rule`` is the rule that decided (``group/rule-id``), None where no rule matches; ``scope`` the first scope that
    is refused; ``commit`` that of the intent; ``shadow`` the verdict as it would be with shadow rules, where that
    differs.  Of what is allowed: ``lasts`` is the longest life that the rules give, ``may_act`` who may exchange the
    token without a rule of its own (RFC 8693, section 4.4), ``depth`` how many actors a chain may have, ``certificate``
    whether the token is to be bound to the client's certificate (RFC 8705), too.
    """

    allowed: bool
    rule: str | None = None
    scope: str | None = None
    commit: str = ""
    where: Where | None = None
    shadow: bool | None = None
    lasts: timedelta | None = None
    may_act: SpiffeId | None = None
    depth: int | None = None
    certificate: bool = False


class TokenAccess(Protocol):
    """Who may come by which token.  Default deny; what is denied for one scope is denied for all that was asked."""

    def decide(self, asked: Asked) -> TokenDecision:
        """By the intent in force, now."""
        ...

    def owns(self, client: SpiffeId, audience: str) -> bool:
        """Whether tokens for this audience are made for the client: it may ask what they say (RFC 7662)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideIssuer:
    """Whose tokens can be traded for ours.  ``keys`` is its JWK set (RFC 7517), in JSON; ``name`` as in the intent.

    ``audiences`` are those that its tokens may have instead of the URL of our own issuer: for ID tokens, the client ID
    that logins use there.  A token that was made for anybody else is refused.  ``longest`` bounds the whole life of a
    token, from ``iat`` on.
    """

    name: str
    issuer: str
    keys: str = field(repr=False)
    longest: timedelta | None = None
    audiences: tuple[str, ...] = ()


class OutsideIssuers(Protocol):
    """Those of the intent in force."""

    def of(self, issuer: str) -> OutsideIssuer | None:
        """By the claim ``iss``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """A token, for the client that asked.  ``text`` is the JWT: a secret.

    ``rule`` and ``commit`` are why it could be had; ``kind`` is the URN of its type (RFC 8693, section 3);
    ``transaction`` is ``txn``: the ID of the first token of its chain; ``actors`` are who acts, the newest first.
    """

    text: str = field(repr=False)
    token_id: str
    audience: tuple[str, ...]
    scopes: tuple[str, ...]
    subject: str
    expires: datetime
    lasts: timedelta
    kind: str = "urn:ietf:params:oauth:token-type:access_token"
    rule: str | None = None
    commit: str = ""
    shadow: bool | None = None
    transaction: str = ""
    actors: tuple[str, ...] = ()


class RevokedBy(Enum):
    """What all revoked tokens have in common."""

    TOKEN = "token"  # noqa: S105 - a kind, no secret
    """``jti``: the one; and ``txn``: of the first token of a chain, with it all that was got for it in exchange.

    Of a token in the middle of a chain ``jti`` revokes that one; what was got for it ends with the chain's ``txn``.
    """
    CLIENT = "client"
    """``client_id``, ``sub`` (others got the token for its own), or anybody in the chain of actors."""
    SUBJECT = "subject"
    """``sub``."""
    KEY = "key"
    """``kid``: whatever was signed with the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedTokens:
    """Tokens that count no longer: those issued before ``before``.  It is forgotten after ``until``."""

    by: RevokedBy
    value: str
    before: datetime
    until: datetime
    reason: str = ""


class RevokedSource(Protocol):
    """The list of what is revoked, as it changes; proxies are told of it."""

    @property
    def now(self) -> tuple[RevokedTokens, ...]:
        """What holds."""
        ...

    @property
    def revision(self) -> int:
        """Grows with each change."""
        ...

    async def changed(self, since: int) -> int:
        """Return once it is another than ``since``."""
        ...


class TokenKeySource(Protocol):
    """The public keys with which our tokens are verified, as they change."""

    @property
    def now(self) -> str:
        """A JWK set in JSON; empty while there are none, for instance while the secret manager is sealed."""
        ...

    @property
    def revision(self) -> int:
        """Grows with each change."""
        ...

    async def changed(self, since: int) -> int:
        """Return once it is another than ``since``."""
        ...
