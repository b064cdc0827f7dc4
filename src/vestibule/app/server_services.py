"""The services of a server, opened in the order in which they need each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vestibule.app.bundle_endpoints import bundle_endpoints
from vestibule.app.server_attestors import node_attestors
from vestibule.app.server_audit import Following
from vestibule.app.server_ceremony import can_sign
from vestibule.app.server_keys import key_manager
from vestibule.app.server_settings import ServerSettings
from vestibule.app.server_state import State, opened_state
from vestibule.app.server_store import ownership
from vestibule.app.server_upstream import upstream_of
from vestibule.audit import AuditLog, DeferringAudit
from vestibule.clock import Clock
from vestibule.identity.administration import Administration, Defaults
from vestibule.identity.authorities import Authorities
from vestibule.identity.authority_revocation import Signers
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.claims import ClaimRules
from vestibule.identity.crl_publishing import CrlPublishing
from vestibule.identity.distrusting import Distrusting
from vestibule.identity.downstream import Downstream
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.entry_rules import EntryRules
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.identity.federation import Federation
from vestibule.identity.inherited_revocations import InheritedRevocations, as_revoking
from vestibule.identity.issuance import Issuance
from vestibule.identity.issuance_gate import RevocationGate
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.identity.jwt_issuance import JwtIssuance
from vestibule.identity.lifecycle import Ownership
from vestibule.identity.marks import Marks
from vestibule.identity.nodes import Nodes
from vestibule.identity.registration import Registration
from vestibule.identity.relationships import Relationships
from vestibule.identity.returning import Returning
from vestibule.identity.revocation import Revoking
from vestibule.identity.revocation_list import RevocationList
from vestibule.identity.server_identity import ServerIdentity
from vestibule.identity.templating import Templating
from vestibule.identity.token_kinds import WIT
from vestibule.identity.upstream import UpstreamAuthority
from vestibule.identity.wit_issuance import WitIssuance
from vestibule.keys import KeyManager
from vestibule.store import Store
from vestibule.store.issued import IssuedFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the doors of a server ask."""

    store: Store
    audit_log: AuditLog
    following: Following
    audit: DeferringAudit
    authorities: Authorities
    upstream: UpstreamAuthority | None
    entitlements: Entitlements
    registration: Registration
    templating: Templating
    administration: Administration
    issuance: Issuance
    jwt_issuance: JwtIssuance
    wit_issuance: WitIssuance
    downstream: Downstream
    nodes: Nodes
    returning: Returning
    identity: ServerIdentity
    revocations: RevocationList
    issued: IssuedFiles
    revoking: Revoking
    inherited: InheritedRevocations | None
    signers: Signers
    crls: CrlPublishing
    distrusting: Distrusting
    bundles: FederatedBundles
    relationships: Relationships
    federation: Federation


@asynccontextmanager
async def opened(
    settings: ServerSettings,
    clock: Clock,
    first_intermediate: Callable[[CeremonyUpstream], Awaitable[None]] | None = None,
) -> AsyncIterator[Services]:
    """Everything a server keeps and does, ready to be asked, with an active authority and the server's own SVID.

    ``first_intermediate`` waits until a ceremony has brought one, where there is nothing to issue with.
    Raises: VST7003 (directory), VST9111 (in use), VST9112 (foreign data), errors of store, audit and keys.
    """
    async with opened_state(settings, clock) as state:
        keys = key_manager(settings)
        async with upstream_of(settings, keys, state.audit, clock) as upstream:
            signing = _signing(settings, state, keys, upstream)
            registry = _registry(settings, state)
            issuing = _issuing(settings, state, signing, registry)
            revoking = _revoking(settings, state, signing, issuing)
            await _start(state, signing, registry, issuing, first_intermediate)
            crls = CrlPublishing(
                state.store,
                keys,
                signing.authorities,
                issuing.revocations,
                state.issued,
                state.audit,
                clock,
            )
            await crls.start()
            federating = _federating(settings, state, signing, registry, issuing)
            await federating.bundles.start()
            yield Services(
                store=state.store,
                audit_log=state.log,
                following=state.following,
                audit=state.audit,
                authorities=signing.authorities,
                upstream=upstream,
                entitlements=registry.entitlements,
                registration=registry.registration,
                templating=registry.templating,
                administration=registry.administration,
                issuance=issuing.issuance,
                jwt_issuance=issuing.jwt_issuance,
                wit_issuance=issuing.wit_issuance,
                downstream=issuing.downstream,
                nodes=issuing.nodes,
                returning=issuing.returning,
                identity=issuing.identity,
                revocations=issuing.revocations,
                issued=state.issued,
                revoking=revoking.revoking,
                inherited=revoking.inherited,
                signers=revoking.signers,
                crls=crls,
                distrusting=Distrusting(
                    issuing.revocations, crls, state.issued, signing.authorities.all, clock
                ),
                bundles=federating.bundles,
                relationships=federating.relationships,
                federation=federating.federation,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signing:
    """What signs."""

    upstream: UpstreamAuthority | None
    owned: Ownership
    jwt: JwtAuthorities | None
    wit: JwtAuthorities | None
    authorities: Authorities


def _signing(
    settings: ServerSettings, state: State, keys: KeyManager, upstream: UpstreamAuthority | None
) -> _Signing:
    store, audit, clock, ttl = state.store, state.audit, state.clock, settings.ca_ttl
    owned = ownership(settings, store)
    jwt = None
    if not settings.disable_jwt_svids:
        jwt = JwtAuthorities(store, keys, audit, clock, ttl, owned)
    wit = None
    if settings.experimental_wit_svids:
        wit = JwtAuthorities(store, keys, audit, clock, ttl, owned, WIT)
    authorities = Authorities(
        store, keys, audit, clock, state.domain, ttl, jwt, upstream, ownership=owned, wit=wit
    )
    return _Signing(upstream=upstream, owned=owned, jwt=jwt, wit=wit, authorities=authorities)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registry:
    """Who may be whom."""

    entitlements: Entitlements
    registration: Registration
    administration: Administration
    templating: Templating


def _registry(settings: ServerSettings, state: State) -> _Registry:
    store, audit, clock, domain = state.store, state.audit, state.clock, state.domain
    entitlements = Entitlements(store, clock)
    rules = EntryRules(
        trust_domain=domain,
        claims=ClaimRules(allowed=settings.allowed_jwt_claims),
        default_identities=settings.template_identities,
    )
    administration = Administration(
        store,
        audit,
        clock,
        domain,
        powers=entitlements.powers,
        defaults=Defaults(
            x509_svid_ttl=settings.default_x509_svid_ttl,
            jwt_svid_ttl=settings.default_jwt_svid_ttl,
        ),
        admin_ids=settings.admin_ids,
    )
    return _Registry(
        entitlements=entitlements,
        registration=Registration(store, entitlements, audit, clock, domain, rules),
        administration=administration,
        templating=Templating(store, entitlements, rules, audit, clock, administration.rights),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issuing:
    """Who gets SVIDs, and what is not issued any more."""

    marks: Marks
    revocations: RevocationList
    issuance: Issuance
    jwt_issuance: JwtIssuance
    wit_issuance: WitIssuance
    downstream: Downstream
    nodes: Nodes
    returning: Returning
    identity: ServerIdentity


def _issuing(settings: ServerSettings, state: State, signing: _Signing, registry: _Registry) -> _Issuing:
    store, audit, clock, domain = state.store, state.audit, state.clock, state.domain
    authorities, entitlements = signing.authorities, registry.entitlements
    marks = Marks(store, clock)
    # What another server of the database revoked cuts streams here, too.
    revocations = RevocationList(store, clock, lambda: nodes.departures.advance())
    gate = RevocationGate(lambda: revocations.now, marks, state.issued.append, clock)
    issuance = Issuance(
        authorities,
        entitlements,
        audit,
        clock,
        domain,
        default_ttl=settings.default_x509_svid_ttl,
        agent_ttl=settings.agent_ttl,
        gate=gate,
    )
    attestors = node_attestors(settings.node_attestors, domain, store.join_tokens)
    nodes = Nodes(store, issuance, registry.registration, attestors, audit, clock, domain, audit)
    nodes.prune_expired_for = settings.prune_agents_expired_for
    nodes.prune_tofu = settings.prune_tofu_agents
    return _Issuing(
        marks=marks,
        revocations=revocations,
        issuance=issuance,
        jwt_issuance=JwtIssuance(
            signing.jwt,
            entitlements,
            audit,
            clock,
            domain,
            default_ttl=settings.default_jwt_svid_ttl,
            issuer=settings.jwt_issuer,
            gate=gate,
        ),
        wit_issuance=WitIssuance(signing.wit, entitlements, audit, clock, domain, gate=gate),
        downstream=Downstream(
            authorities, store, audit, clock, domain, default_ttl=settings.ca_ttl, gate=gate
        ),
        nodes=nodes,
        returning=Returning(nodes, issuance, audit, clock, settings.return_grace, lambda: revocations.now),
        identity=ServerIdentity(issuance, clock, domain, authorities),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Revoking:
    """What takes SVIDs and authorities back."""

    signers: Signers
    revoking: Revoking
    inherited: InheritedRevocations | None


def _revoking(settings: ServerSettings, state: State, signing: _Signing, issuing: _Issuing) -> _Revoking:
    audit, clock, domain = state.audit, state.clock, state.domain
    revocations, jwt = issuing.revocations, signing.jwt
    signers = Signers(signing.authorities, lambda: [] if jwt is None else jwt.all())
    revoking = Revoking(
        revocations,
        issuing.marks,
        state.issued,
        state.store.lower_authorities,
        signers,
        issuing.nodes,
        audit,
        clock,
        domain,
        renew_server=issuing.identity.renew,
        emergency=audit,
        linger=settings.return_grace,
        told=issuing.nodes.departures.advance,
    )
    inherited = None
    if above := as_revoking(signing.upstream):
        renew = issuing.identity.renew
        inherited = InheritedRevocations(above, revocations, signers, audit, clock, domain, renew)
    return _Revoking(signers=signers, revoking=revoking, inherited=inherited)


async def _start(
    state: State,
    signing: _Signing,
    registry: _Registry,
    issuing: _Issuing,
    first_intermediate: Callable[[CeremonyUpstream], Awaitable[None]] | None,
) -> None:
    """Each reads what is kept of it; those first without which others would issue what they may not."""
    state.issued.open()
    await issuing.marks.start()
    await issuing.revocations.start()
    upstream = signing.upstream
    if isinstance(upstream, CeremonyUpstream):
        await upstream.start()
        if first_intermediate is not None and not await can_sign(
            state.store, state.clock, signing.owned.owner
        ):
            await first_intermediate(upstream)
    await signing.authorities.start()
    await registry.entitlements.start()
    await registry.administration.start()
    await issuing.identity.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Federating:
    """What is known of other trust domains."""

    bundles: FederatedBundles
    relationships: Relationships
    federation: Federation


def _federating(
    settings: ServerSettings, state: State, signing: _Signing, registry: _Registry, issuing: _Issuing
) -> _Federating:
    store, audit, clock, own = state.store, state.audit, state.clock, signing.authorities.bundle
    revocations = issuing.revocations
    bundles = FederatedBundles(store, registry.entitlements, audit, own)
    relationships = Relationships(store, bundles, audit, own)
    federation = Federation(
        store,
        relationships,
        bundles,
        bundle_endpoints(settings, clock, lambda: revocations.now),
        audit,
        clock,
        own,
        shortest=settings.federation_shortest_refresh,
    )
    return _Federating(bundles=bundles, relationships=relationships, federation=federation)
