"""A token service over storage in memory, and issuers of tokens beside it: what doors and clients are tried against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.clock import Clock, SystemClock
from vestibule.pki.jwk import encode_base64url, jwk_parameters
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import Changes
from vestibule.store.barrier import Change
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.vault import MemoryAudit
from vestibule.tokens.keyring import thumbprint
from vestibule.tokens.ports import (
    Asked,
    Client,
    OutsideIssuer,
    Proof,
    TokenDecision,
    Verb,
)
from vestibule.tokens.service import TokenService, TokenSettings
from vestibule.tokens.signing import raw_signature

TRUST_DOMAIN = TrustDomain.parse("example.org")
ISSUER = "https://tokens.example.org"


def spiffe_id(service: str) -> SpiffeId:
    """What a service is called."""
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{service}")


def client(service: str, proof: Proof = Proof.X509_SVID) -> Client:
    """A service that has proved who it is; one certificate each."""
    digest = sha256(service.encode()).digest() if proof is Proof.X509_SVID else None
    return Client(spiffe_id=spiffe_id(service), proof=proof, thumbprint=digest)


@dataclass(slots=True)
class TableTokenAccess:
    """``tokens.ports.TokenAccess`` from a table: a rule for (client, verb, audience), and the scopes that it gives."""

    rules: dict[tuple[SpiffeId, Verb, str], tuple[frozenset[str], TokenDecision]] = field(
        default_factory=dict
    )
    owners: set[tuple[SpiffeId, str]] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)

    def allow(self, service: str, verb: Verb, audience: str, *scopes: str, **more: Any) -> None:
        """``more`` is of TokenDecision: ``lasts``, ``may_act``, ``depth``, ``certificate``.

        Without scopes, any may be handed on (``EXCHANGE``), and none be had.
        """
        decision = TokenDecision(
            allowed=True, rule=f"{audience}/{service}-{verb.value}", commit="c0ffee", **more
        )
        self.rules[spiffe_id(service), verb, audience] = frozenset(scopes), decision

    def deny(self, service: str, verb: Verb, audience: str) -> None:
        """As if there never was a rule."""
        self.rules.pop((spiffe_id(service), verb, audience), None)

    def own(self, service: str, audience: str) -> None:
        """Tokens for the audience are made for the service."""
        self.owners.add((spiffe_id(service), audience))

    def decide(self, asked: Asked) -> TokenDecision:
        self.asked.append(asked)
        there = self.rules.get((asked.client, asked.verb, asked.audience))
        if there is None:
            return TokenDecision(allowed=False, commit="c0ffee")
        scopes, decision = there
        if asked.verb is Verb.EXCHANGE and not scopes:
            return decision
        missing = next((each for each in asked.scopes if each not in scopes), None)
        return decision if missing is None else replace(decision, allowed=False, scope=missing, rule=None)

    def owns(self, client: SpiffeId, audience: str) -> bool:
        return (client, audience) in self.owners


class MemoryIssuer:
    """An OpenID provider of others, without its HTTP: it has a key, and signs what it is told."""

    def __init__(
        self, name: str = "corp", issuer: str = "https://login.corp.example", *audiences: str
    ) -> None:
        self.name = name
        self.issuer = issuer
        self.audiences = audiences
        self.longest: timedelta | None = None
        self.key = generate_key()
        self.key_id = thumbprint(self.key.public_key())

    @property
    def jwks(self) -> str:
        """Its JWK set."""
        jwk = {**jwk_parameters(self.key.public_key()), "kid": self.key_id, "use": "sig", "alg": "ES256"}
        return json.dumps({"keys": [jwk]})

    @property
    def value(self) -> OutsideIssuer:
        """As the intent would have it."""
        return OutsideIssuer(
            name=self.name, issuer=self.issuer, keys=self.jwks, longest=self.longest, audiences=self.audiences
        )

    def token(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """What it signs; ``iss`` is its own unless the claims have another."""
        said = {"alg": "ES256", "kid": self.key_id, "typ": "JWT"} if header is None else dict(header)
        return signed(said, {"iss": self.issuer, **claims}, self.key)


def signed(header: Mapping[str, Any], claims: Any, key: EllipticCurvePrivateKey) -> str:
    """A JWT with any header and claims, signed with ES256 by ``key``, whatever its header says."""
    parts = [encode_base64url(json.dumps(each).encode()) for each in (header, claims)]
    signature = raw_signature(key.sign(".".join(parts).encode(), ECDSA(SHA256())))
    return ".".join([*parts, encode_base64url(signature)])


class _ToldBarrier(MemoryBarrier):
    """As a store does it: who follows hears of each change."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self._feed = changes

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        revisions = await super().apply(changes)
        self._feed.publish("secrets")
        return revisions


class MemoryTokens:
    """The real service; storage in memory, rules by a table, issuers by ``trust``.

    ``await lab.service.start()`` first; then it has keys.
    """

    def __init__(self, clock: Clock | None = None, **settings: Any) -> None:
        """``settings`` are of TokenSettings."""
        self.clock = clock or SystemClock()
        self.changes = Changes()
        self.barrier = _ToldBarrier(self.changes)
        self.audit = MemoryAudit()
        self.access = TableTokenAccess()
        self.issuers: dict[str, MemoryIssuer] = {}
        self.leads = True
        self.settings = TokenSettings(**{"issuer": ISSUER, "trust_domain": TRUST_DOMAIN, **settings})
        self.service = self.another()

    def another(self) -> TokenService:
        """One more server on the same storage."""
        return TokenService(
            self.settings,
            barrier=self.barrier,
            access=self.access,
            outside=self,
            clock=self.clock,
            changes=self.changes,
            record=self.audit.record,
            leads=lambda: self.leads,
        )

    def trust(self, issuer: MemoryIssuer) -> MemoryIssuer:
        """Its tokens can be traded for ours."""
        self.issuers[issuer.issuer] = issuer
        return issuer

    def of(self, issuer: str) -> OutsideIssuer | None:
        """``tokens.ports.OutsideIssuers``."""
        known = self.issuers.get(issuer)
        return None if known is None else known.value
