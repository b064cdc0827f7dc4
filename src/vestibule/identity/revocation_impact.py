"""The drill: what a revocation cuts off, and how soon for each kind of client, told before it is done.

Who learns what, and when:

- our server, agents and libraries hold the list itself: at once, and within a second;
- everybody who verifies against a trust bundle, and against nothing else, notices only that an authority left it.
  Envoy's SPIFFE validator is one of them: it ignores certificate revocation lists (a test holds that against the
  real Envoy);
- who verifies with OpenSSL's rules and loads our CRLs notices at its next fetch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.identity.authority_revocation import Signers
from vestibule.identity.revocation import IssuedCertificates, Plan
from vestibule.records import AgentRecord, AuthorityState, Instance, identity_digest
from vestibule.spiffe import (
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    SpiffeId,
)
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.store import AgentFilter, Store
from vestibule.store.issued import Issued

SHOWN: Final = 200
RENEWED_AT_ONCE: Final = 100
RENEWAL_SECONDS: Final = 5
"""So many SVIDs of a tainted authority an agent replaces in so many seconds (``agent.tainting``)."""

CRL_MAX_AGE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityImpact:
    """One identity that is cut off, with how many valid certificates, and until when they would have lasted."""

    spiffe_id: str
    certificates: int
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentImpact:
    """An agent that is meant, or through which what is meant was issued."""

    spiffe_id: SpiffeId
    connected: bool
    banned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientImpact:
    """A kind of client: when it stops accepting what is revoked, and by what it learns."""

    kind: str
    how_soon: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """All of it, as far as this server knows."""

    identities: tuple[IdentityImpact, ...]
    agents: tuple[AgentImpact, ...]
    proxies: tuple[Instance, ...]
    certificates: int
    until: datetime | None
    clients: tuple[ClientImpact, ...]
    offline_root: str
    warnings: tuple[str, ...]
    left_out: int = 0


class Drill:
    """Looks, and changes nothing."""

    def __init__(
        self,
        store: Store,
        issued: IssuedCertificates,
        signers: Signers,
        clock: Clock,
        *,
        entitled: Callable[[SpiffeId, SpiffeId], bool],
        connected: Callable[[SpiffeId], bool],
    ) -> None:
        """``entitled`` says whether an agent may have an identity, ``connected`` whether it is here now."""
        self._store = store
        self._issued = issued
        self._signers = signers
        self._clock = clock
        self._entitled = entitled
        self._connected = connected

    async def of(self, plan: Plan) -> Impact:
        """What a plan would cut off.  Raises: errors of the store."""
        certificates = await self._certificates(plan)
        names = await self._names(plan)
        identities = _by_identity(certificates, names)
        known = {each.spiffe_id for each in identities} | _named(plan)
        agents = await self._agents(plan, known)
        proxies = [each for each in await self._store.instances.all() if self._is_cut(each, plan, known)]
        until = max((each.not_after for each in certificates), default=None)
        return Impact(
            identities=tuple(identities[:SHOWN]),
            agents=tuple(agents),
            proxies=tuple(proxies),
            certificates=len(certificates),
            until=until,
            clients=_clients(plan, until),
            offline_root=_offline_root(plan),
            warnings=tuple(self._warnings(plan, certificates)),
            left_out=max(0, len(identities) - SHOWN),
        )

    async def _certificates(self, plan: Plan) -> list[Issued]:
        now, found = self._clock.now(), dict[int, Issued]()
        for revocation in plan.revocations:
            target = revocation.target
            some: list[Issued] = []
            match target:
                case RevokedIdentity():
                    some = await self._issued.by_identity(target.spiffe_id, now)
                case RevokedCertificate():
                    some = await self._issued.by_serial(target.serial, now)
                case RevokedAgent():
                    some = await self._issued.by_mark(target.mark, now)
                case RevokedAuthority():
                    own = plan.authority.x509 if plan.authority else None
                    some = await self._issued.by_authority(own.id, now) if own else []
                case RevokedJwtKey():
                    pass  # tokens live for minutes, and are on no record but the audit log
            found |= {each.serial: each for each in some}
        return list(found.values())

    async def _names(self, plan: Plan) -> dict[bytes, str]:
        ids = {entry.spiffe_id for entry in await self._store.entries.all()}
        ids |= {agent.spiffe_id for agent in await self._every_agent()}
        ids |= {SpiffeId.parse(each) for each in _named(plan)}
        return {identity_digest(each): str(each) for each in ids}

    async def _every_agent(self) -> Sequence[AgentRecord]:
        return (await self._store.agents.page(AgentFilter(), 0)).items

    async def _agents(self, plan: Plan, identities: set[str]) -> list[AgentImpact]:
        wanted = [SpiffeId.parse(each) for each in identities if each.startswith("spiffe://")]
        found = []
        for agent in await self._every_agent():
            own = agent.spiffe_id == plan.bans or str(agent.spiffe_id) in identities
            # An agent's revocation concerns that agent; what else it had issued, others may have, too.
            through = plan.bans is None and any(self._entitled(agent.spiffe_id, each) for each in wanted)
            if own or through:
                connected = self._connected(agent.spiffe_id)
                found.append(AgentImpact(spiffe_id=agent.spiffe_id, connected=connected, banned=agent.banned))
        return found

    def _is_cut(self, instance: Instance, plan: Plan, identities: set[str]) -> bool:
        if plan.bans is not None:
            return instance.agent_id == plan.bans
        return str(instance.spiffe_id) in identities

    def _warnings(self, plan: Plan, certificates: Sequence[Issued]) -> Iterable[str]:
        if plan.what in ("identity", "certificate", "agent") and not certificates:
            yield (
                "no valid certificate of it is on record here; what was issued before this version, or by another "
                "server, is not"
            )
        if plan.what == "agent" and len(plan.revocations) == 1:
            yield "nothing on record was issued through this agent since there are marks"
        if plan.authority is not None and plan.authority.x509 is not None:
            others = [
                each
                for each in self._signers.lifecycle.all()
                if each.state in (AuthorityState.ACTIVE, AuthorityState.PREPARED)
                and each.id != plan.authority.x509.id
            ]
            yield from _renewal(certificates)
            if not others:
                yield "another authority is made first, and gets the grace period to become known everywhere"


def _renewal(certificates: Sequence[Issued]) -> Iterable[str]:
    """Agents replace what a tainted authority signed at a pace that does not overrun the server."""
    per_agent = Counter(each.serial >> MARK_BITS for each in certificates)
    most = max(per_agent.values(), default=0)
    if most:
        seconds = RENEWAL_SECONDS * (1 + math.ceil(most / RENEWED_AT_ONCE))
        yield f"agents need about {seconds} s to replace what it signed: give them that with --grace"


def _named(plan: Plan) -> set[str]:
    """The identities that a plan names itself."""
    return {
        str(each.target.spiffe_id) for each in plan.revocations if isinstance(each.target, RevokedIdentity)
    }


def _by_identity(certificates: Sequence[Issued], names: dict[bytes, str]) -> list[IdentityImpact]:
    groups: dict[bytes, list[Issued]] = {}
    for each in certificates:
        groups.setdefault(each.identity, []).append(each)
    found = [
        IdentityImpact(
            spiffe_id=names.get(digest, f"(no entry any more, sha256 {digest.hex()}…)"),
            certificates=len(group),
            until=max(each.not_after for each in group),
        )
        for digest, group in groups.items()
    ]
    return sorted(found, key=lambda each: each.spiffe_id)


def _clients(plan: Plan, until: datetime | None) -> tuple[ClientImpact, ...]:
    ends = f"when they expire: {until.isoformat()} for the last" if until else "when they expire"
    ours = (
        ClientImpact(
            kind="this server",
            how_soon="at once",
            how="every RPC and every running stream is checked against the list; nothing is issued any more",
        ),
        ClientImpact(
            kind="our agents, and programs with our library",
            how_soon="under 1 s while connected; otherwise when the agent reaches the server again",
            how="the list is pushed to them; open connections of programs are not cut",
        ),
        *(() if _is_of_tokens(plan) else (_PROXIES,)),
    )
    leaves_bundle = plan.authority is not None and not plan.authority.is_foreign
    return (*ours, *(_by_bundle(plan) if leaves_bundle else _by_expiry(plan, ends)))


_PROXIES: Final = ClientImpact(
    kind="our proxies",
    how_soon="under 1 s for the next request, also on open connections; what is under way ends within the drain time",
    how="the list is pushed to them as a filter of its own; callers leave what is revoked",
)


def _is_of_tokens(plan: Plan) -> bool:
    return plan.authority is not None and plan.authority.jwt is not None


def _by_bundle(plan: Plan) -> Iterable[ClientImpact]:
    jwt = _is_of_tokens(plan)
    pushed = "the authority leaves the trust bundle, which agents push (Workload API, SDS)"
    for kind in ("Envoy with the SPIFFE validator", "go-spiffe, py-spiffe, java-spiffe"):
        yield ClientImpact(kind=kind, how_soon="seconds, for new handshakes or calls", how=pushed)
    yield ClientImpact(
        kind="federated trust domains",
        how_soon="at their next fetch of our bundle (its refresh hint)",
        how="they poll the bundle endpoint",
    )
    if jwt:
        yield ClientImpact(
            kind="clouds, Vault and others by OIDC discovery",
            how_soon="at their next fetch of /keys (max-age at most 5 minutes)",
            how="the key leaves the JWK set",
        )
    else:
        yield ClientImpact(
            kind="OpenSSL and others with a file of authorities",
            how_soon="when that file is replaced",
            how="nobody can sign a CRL with the authority's key after it was replaced; take it out of the file",
        )


def _by_expiry(plan: Plan, ends: str) -> Iterable[ClientImpact]:
    if plan.authority is not None:
        ends = "not before the authority or the root above it expires, or leaves their bundle"
    yield ClientImpact(
        kind="Envoy with the SPIFFE validator",
        how_soon=ends,
        how="it ignores CRLs; only a changed trust bundle cuts it off",
    )
    yield ClientImpact(
        kind="go-spiffe, py-spiffe, java-spiffe",
        how_soon=ends,
        how="they know trust bundles only, and no revocation",
    )
    if plan.authority is not None:
        yield ClientImpact(
            kind="OpenSSL and others with CRLs",
            how_soon="at their next fetch of the CRL of the authority above",
            how="which whoever holds that authority has to sign and publish: see what the offline root is needed for",
        )
    else:
        seconds = int(CRL_MAX_AGE.total_seconds())
        yield ClientImpact(
            kind="OpenSSL and others with CRLs",
            how_soon=f"at their next fetch of /crl/AUTHORITY.crl (max-age {seconds} s)",
            how="the serial numbers are on the CRL of the authority that signed them",
        )


def _offline_root(plan: Plan) -> str:
    authority = plan.authority
    if authority is None or authority.jwt is not None:
        return "nothing"
    if authority.x509 is not None and not authority.is_foreign:
        return "nothing: the authority is its own root, and leaves the bundle"
    return (
        "a new CRL that names the certificate, for clients with CRLs; and, for those that know bundles only, a new "
        "root: sign new intermediates with it, publish both roots, move every server over, then take the old root "
        "out of the bundle"
    )
