"""The services of a server, opened in the order in which they need each other."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestibule.app.bundle_endpoints import bundle_endpoints
from vestibule.app.codes import DATA_IN_USE, FOREIGN_DATA
from vestibule.app.server_attestors import node_attestors
from vestibule.app.server_ceremony import can_sign
from vestibule.app.server_keys import key_manager
from vestibule.app.server_settings import ServerSettings
from vestibule.app.server_store import opened_store, ownership
from vestibule.app.server_upstream import upstream_of
from vestibule.audit import AuditLog, DeferringAudit
from vestibule.clock import Clock
from vestibule.identity.administration import Administration, Defaults
from vestibule.identity.authorities import Authorities
from vestibule.identity.authority_revocation import Signers
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.claims import ClaimRules
from vestibule.identity.crl_publishing import CrlPublishing
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
from vestibule.processes import private_directory
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.spiffe import TrustDomain
from vestibule.store import Store
from vestibule.store.issued import IssuedFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the doors of a server ask."""

    store: Store
    audit_log: AuditLog
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
    data, domain = private_directory(settings.data_dir), settings.trust_domain
    with _sole_user(data):
        store = await opened_store(settings, clock)
        try:
            log = AuditLog(
                data / "audit.jsonl",
                clock,
                max_bytes=settings.audit_file_size,
                max_files=settings.audit_files,
            )
            audit = DeferringAudit(log, clock)
            await log.open()
            above = AsyncExitStack()
            issued = IssuedFiles(data / "issued")
            try:
                await _check_trust_domain(store, domain)
                keys = key_manager(settings)
                upstream = await above.enter_async_context(upstream_of(settings, keys, audit, clock))
                owned = ownership(settings, store)
                jwt = None
                if not settings.disable_jwt_svids:
                    jwt = JwtAuthorities(store, keys, audit, clock, settings.ca_ttl, owned)
                wit = None
                if settings.experimental_wit_svids:
                    wit = JwtAuthorities(store, keys, audit, clock, settings.ca_ttl, owned, WIT)
                authorities = Authorities(
                    store,
                    keys,
                    audit,
                    clock,
                    domain,
                    settings.ca_ttl,
                    jwt,
                    upstream,
                    ownership=owned,
                    wit=wit,
                )
                entitlements = Entitlements(store, clock)
                marks = Marks(store, clock)
                # What another server of the database revoked cuts streams here, too.
                revocations = RevocationList(store, clock, lambda: nodes.departures.advance())
                gate = RevocationGate(lambda: revocations.now, marks, issued.append, clock)
                claims = ClaimRules(allowed=settings.allowed_jwt_claims)
                rules = EntryRules(
                    trust_domain=domain, claims=claims, default_identities=settings.template_identities
                )
                registration = Registration(store, entitlements, audit, clock, domain, rules)
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
                templating = Templating(store, entitlements, rules, audit, clock, administration.rights)
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
                jwt_issuance = JwtIssuance(
                    jwt,
                    entitlements,
                    audit,
                    clock,
                    domain,
                    default_ttl=settings.default_jwt_svid_ttl,
                    issuer=settings.jwt_issuer,
                    gate=gate,
                )
                wit_issuance = WitIssuance(wit, entitlements, audit, clock, domain, gate=gate)
                attestors = node_attestors(settings.node_attestors, domain, store.join_tokens)
                nodes = Nodes(store, issuance, registration, attestors, audit, clock, domain, audit)
                nodes.prune_expired_for = settings.prune_agents_expired_for
                nodes.prune_tofu = settings.prune_tofu_agents
                returning = Returning(
                    nodes, issuance, audit, clock, settings.return_grace, lambda: revocations.now
                )
                identity = ServerIdentity(issuance, clock, domain, authorities)
                signers = Signers(authorities, lambda: [] if jwt is None else jwt.all())
                revoking = Revoking(
                    revocations,
                    marks,
                    issued,
                    store.lower_authorities,
                    signers,
                    nodes,
                    audit,
                    clock,
                    domain,
                    renew_server=identity.renew,
                    emergency=audit,
                    linger=settings.return_grace,
                    told=nodes.departures.advance,
                )
                above_us = as_revoking(upstream)
                inherited = (
                    InheritedRevocations(above_us, revocations, signers, audit, clock, domain, identity.renew)
                    if above_us
                    else None
                )
                issued.open()
                await marks.start()
                await revocations.start()
                if isinstance(upstream, CeremonyUpstream):
                    await upstream.start()
                    if first_intermediate is not None and not await can_sign(store, clock, owned.owner):
                        await first_intermediate(upstream)
                await authorities.start()
                await entitlements.start()
                await administration.start()
                await identity.start()
                crls = CrlPublishing(store, keys, authorities, revocations, issued, audit, clock)
                await crls.start()
                bundles = FederatedBundles(store, entitlements, audit, authorities.bundle)
                relationships = Relationships(store, bundles, audit, authorities.bundle)
                federation = Federation(
                    store,
                    relationships,
                    bundles,
                    bundle_endpoints(settings, clock, lambda: revocations.now),
                    audit,
                    clock,
                    authorities.bundle,
                    shortest=settings.federation_shortest_refresh,
                )
                await bundles.start()
                yield Services(
                    store=store,
                    audit_log=log,
                    audit=audit,
                    authorities=authorities,
                    upstream=upstream,
                    entitlements=entitlements,
                    registration=registration,
                    templating=templating,
                    administration=administration,
                    issuance=issuance,
                    jwt_issuance=jwt_issuance,
                    wit_issuance=wit_issuance,
                    downstream=Downstream(
                        authorities, store, audit, clock, domain, default_ttl=settings.ca_ttl, gate=gate
                    ),
                    nodes=nodes,
                    returning=returning,
                    identity=identity,
                    revocations=revocations,
                    issued=issued,
                    revoking=revoking,
                    inherited=inherited,
                    signers=signers,
                    crls=crls,
                    bundles=bundles,
                    relationships=relationships,
                    federation=federation,
                )
            finally:
                await above.aclose()
                await log.close()
                issued.close()
        finally:
            await store.close()


@contextmanager
def _sole_user(directory: Path) -> Iterator[None]:
    """Hold the directory: two servers on one database would each sign and rotate on their own."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NOT_WRITABLE.error(f"cannot write in {directory}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DATA_IN_USE.error(f"another server works with {directory}") from None
        yield
    finally:
        os.close(descriptor)


async def _check_trust_domain(store: Store, domain: TrustDomain) -> None:
    if await store.authorities.all() and await store.bundles.get(domain) is None:
        raise FOREIGN_DATA.error(f"the data directory does not belong to the trust domain {domain}")
