"""An identity service on a real store, with a clock that obeys and an audit log that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from vestibule.attest.node.join_token import JoinTokenAttestor
from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.identity.authorities import Authorities
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.issuance import Issuance
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.jwt_issuance import JwtIssuance
from vestibule.identity.nodes import Nodes
from vestibule.identity.registration import Registration
from vestibule.identity.token_kinds import WIT
from vestibule.identity.upstream import UpstreamAuthority
from vestibule.keys import KeyManager, MemoryKeyManager
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

DOMAIN = TrustDomain.parse("example.org")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/abc")
SERVER = SpiffeId.parse("spiffe://example.org/spire/server")


class RecordingAudit:
    """Keeps events in memory; ``broken`` makes it refuse, as a full disk would."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.broken = False

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.broken:
            raise AUDIT_UNAVAILABLE.error("the audit log cannot be written")
        self.events += events

    def actions(self) -> list[str]:
        return [event.action for event in self.events]


def spiffe(path: str) -> SpiffeId:
    return SpiffeId.of(DOMAIN, path)


def entry(path: str, parent: SpiffeId | str, *selectors: str, **fields: object) -> Entry:
    parent_id = spiffe(parent) if isinstance(parent, str) else parent
    wanted = frozenset(Selector.parse(each) for each in selectors or ("unix:uid:1000",))
    return Entry(spiffe_id=spiffe(path), parent_id=parent_id, selectors=wanted, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """Everything that the tests of the identity service touch."""

    clock: FakeClock
    store: Store
    audit: RecordingAudit
    keys: KeyManager
    authorities: Authorities
    entitlements: Entitlements
    registration: Registration
    issuance: Issuance
    jwt: JwtAuthorities
    jwt_issuance: JwtIssuance
    nodes: Nodes

    async def create(self, *entries: Entry) -> list[Entry]:
        created = await self.registration.create("test", entries)
        return [each[0] for each in created if isinstance(each, tuple)]


@asynccontextmanager
async def identity_world(
    directory: Path,
    *,
    clock: FakeClock | None = None,
    keys: KeyManager | None = None,
    ca_ttl: timedelta = timedelta(hours=24),
    with_jwt: bool = False,
    with_wit: bool = False,
    upstream: UpstreamAuthority | None = None,
) -> AsyncIterator[World]:
    clock, keys, audit = clock or FakeClock(), keys or MemoryKeyManager(), RecordingAudit()
    store = await open_store(directory / "server.db", clock)
    try:
        jwt = JwtAuthorities(store, keys, audit, clock, ca_ttl)
        wit = JwtAuthorities(store, keys, audit, clock, ca_ttl, kind=WIT) if with_wit else None
        authorities = Authorities(
            store, keys, audit, clock, DOMAIN, ca_ttl, jwt if with_jwt else None, upstream, wit=wit
        )
        entitlements = Entitlements(store, clock)
        registration = Registration(store, entitlements, audit, clock, DOMAIN)
        issuance = Issuance(authorities, entitlements, audit, clock, DOMAIN)
        jwt_issuance = JwtIssuance(jwt if with_jwt else None, entitlements, audit, clock, DOMAIN)
        attestors = (JoinTokenAttestor(store.join_tokens, DOMAIN),)
        nodes = Nodes(store, issuance, registration, attestors, audit, clock, DOMAIN)
        await authorities.start()
        await entitlements.start()
        yield World(
            clock=clock,
            store=store,
            audit=audit,
            keys=keys,
            authorities=authorities,
            entitlements=entitlements,
            registration=registration,
            issuance=issuance,
            jwt=jwt,
            jwt_issuance=jwt_issuance,
            nodes=nodes,
        )
    finally:
        await store.close()
