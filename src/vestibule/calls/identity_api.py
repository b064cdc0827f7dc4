"""What an agent asks the server about identities (SPIRE's server APIs, and our push of changes)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.channel import ServerChannel
from vestibule.calls.codes import BAD_ANSWER, OTHER_TRUST_DOMAIN
from vestibule.calls.presence import PresenceApi, ServerTime
from vestibule.calls.standing import standing as _standing
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client, Stream
from vestibule.records import Entry
from vestibule.spiffe import JwtAuthority, Selector, SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

MAX_BATCH: Final = 500
"""How many SVIDs the server signs per call."""

Chain = tuple[bytes, ...]
"""Certificates in DER, leaf first, without the trust bundle's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The state of the world by its revisions; one that differs from the last means: ask again."""

    entries: int
    bundle: int
    intent: int
    federation: int = 0


class Proof(Protocol):
    """The agent's half of a node attestor (``attest.node``)."""

    @property
    def name(self) -> str: ...

    async def payload(self) -> bytes: ...

    async def respond(self, challenge: bytes) -> bytes: ...


class IdentityApi:
    """A client of the server's identity services.

    Every method raises the server's errors, VST2300 when it cannot be reached, VST2315 when it is not the
    server, VST2330 when this agent is banned and VST2331 when it has to attest again.
    """

    def __init__(self, channel: ServerChannel, trust_domain: TrustDomain) -> None:
        self._trust_domain = trust_domain
        self._agents = Client(channel, agent_pb2.DESCRIPTOR.services_by_name["Agent"])
        self._entries = Client(channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        self._svids = Client(channel, svid_pb2.DESCRIPTOR.services_by_name["SVID"])
        self._bundles = Client(channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
        self._node = Client(channel, node_pb2.DESCRIPTOR.services_by_name["Node"])
        self._presence = PresenceApi(channel)

    async def attest(self, proof: Proof, csr: bytes) -> Chain:
        """Join: the evidence for an SVID."""
        with _standing():
            async with self._agents.stream("AttestAgent", timeout=30.0) as stream:
                await stream.send_message(
                    agent_pb2.AttestAgentRequest(
                        params=agent_pb2.AttestAgentRequest.Params(
                            data=types_pb2.AttestationData(type=proof.name, payload=await proof.payload()),
                            params=agent_pb2.AgentX509SVIDParams(csr=csr),
                        )
                    )
                )
                while (answer := await stream.recv_message()) is not None:
                    if answer.WhichOneof("step") == "result":
                        return tuple(answer.result.svid.cert_chain)
                    response = await proof.respond(answer.challenge)
                    await stream.send_message(agent_pb2.AttestAgentRequest(challenge_response=response))
        raise BAD_ANSWER.error("the server ended the attestation without a result")

    async def renew(self, csr: bytes) -> Chain:
        """A new SVID for this agent."""
        request = agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr))
        with _standing():
            answer = await self._agents.unary("RenewAgent", request)
        return tuple(answer.svid.cert_chain)

    async def come_back(self, last: X509Svid, csr: bytes) -> Chain:
        """A new SVID for the holder of the last one's key.  Raises, beside the usual: VST2334."""
        return await self._presence.come_back(last, csr)

    async def time(self, clock: Clock) -> ServerTime:
        """The server's time, and how long the question took."""
        return await self._presence.time(clock)

    async def bundle(self) -> TrustBundle:
        """The trust bundle.  Raises, beside the usual: VST2333 for one of another trust domain."""
        with _standing():
            answer = await self._bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
        if TrustDomain.parse(answer.trust_domain) != self._trust_domain:
            raise OTHER_TRUST_DOMAIN.error(
                f"the server is of trust domain {answer.trust_domain!r}, this agent of '{self._trust_domain}'"
            )
        return bundle_from_wire(answer)

    async def federated_bundle(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The bundle of another trust domain; ``None`` if the server has none.

        Raises, beside the usual: VST2332 for one of a third trust domain.
        """
        request = bundle_pb2.GetFederatedBundleRequest(trust_domain=str(trust_domain))
        try:
            with _standing():
                answer = await self._bundles.unary("GetFederatedBundle", request)
        except VestibuleError as error:
            if isinstance(error.__cause__, GRPCError) and error.__cause__.status is Status.NOT_FOUND:
                return None
            raise
        bundle = bundle_from_wire(answer)
        if bundle.trust_domain != trust_domain or trust_domain == self._trust_domain:
            raise BAD_ANSWER.error(f"the server gave a bundle of {bundle.trust_domain} for {trust_domain}")
        return bundle

    async def watch(self) -> AsyncIterator[Revisions]:
        """The revisions at once, and after every change, until the connection ends."""
        with _standing():
            async with self._node.stream("Watch") as stream:
                await stream.send_message(node_pb2.WatchRequest(), end=True)
                while (answer := await stream.recv_message()) is not None:
                    yield Revisions(
                        entries=answer.entries_revision,
                        bundle=answer.bundle_sequence,
                        intent=answer.intent_revision,
                        federation=answer.federation_revision,
                    )

    async def authorized_entries(self, known: Mapping[str, Entry]) -> dict[str, Entry]:
        """The entries this agent is entitled to, by ID; of those in ``known`` only what changed is transferred."""
        with _standing():
            async with self._entries.stream("SyncAuthorizedEntries", timeout=60.0) as stream:
                await stream.send_message(entry_pb2.SyncAuthorizedEntriesRequest())
                return await _synchronise(stream, known)

    async def new_svids(self, requests: Mapping[str, bytes]) -> dict[str, Chain | VestibuleError]:
        """SVIDs for CSRs, both by entry ID, at most ``MAX_BATCH``; single ones may fail."""
        params = [svid_pb2.NewX509SVIDParams(entry_id=each, csr=csr) for each, csr in requests.items()]
        with _standing():
            answer = await self._svids.unary(
                "BatchNewX509SVID", svid_pb2.BatchNewX509SVIDRequest(params=params)
            )
        if len(answer.results) != len(requests):
            raise BAD_ANSWER.error(f"{len(answer.results)} answers came for {len(requests)} requests")
        return {
            entry_id: tuple(result.svid.cert_chain)
            if result.status.code == Status.OK.value
            else BAD_ANSWER.error(f"no SVID for entry {entry_id}: {result.status.message}")
            for entry_id, result in zip(requests, answer.results, strict=True)
        }

    async def new_jwt_svid(self, entry_id: str, audience: Sequence[str]) -> str:
        """A JWT-SVID for one of this agent's entries."""
        request = svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=audience)
        with _standing():
            answer = await self._svids.unary("NewJWTSVID", request)
        return str(answer.svid.token)

    async def new_wit_svid(self, entry_id: str, public_key: bytes, algorithm: str) -> str:
        """A WIT-SVID for one of this agent's entries, bound to a public key (DER)."""
        params = [
            svid_pb2.NewWITSVIDParams(entry_id=entry_id, public_key=public_key, signing_algorithm=algorithm)
        ]
        with _standing():
            answer = await self._svids.unary(
                "BatchNewWITSVID", svid_pb2.BatchNewWITSVIDRequest(params=params)
            )
        if len(answer.results) != 1:
            raise BAD_ANSWER.error(f"{len(answer.results)} answers came for one request")
        [result] = answer.results
        if result.status.code != Status.OK.value:
            raise BAD_ANSWER.error(f"no WIT-SVID for entry {entry_id}: {result.status.message}")
        return str(result.svid.token)


async def _synchronise(stream: Stream, known: Mapping[str, Entry]) -> dict[str, Entry]:
    answer = await _next(stream)
    # 1. Few entries come whole, at once.
    if not answer.entry_revisions:
        found = list(answer.entries)
        while answer.more:
            answer = await _next(stream)
            found.extend(answer.entries)
        return {entry.id: entry for entry in map(entry_from_wire, found)}
    # 2. Many come as revisions first.
    revisions = list(answer.entry_revisions)
    while answer.more:
        answer = await _next(stream)
        revisions.extend(answer.entry_revisions)
    entries = {each.id: known[each.id] for each in revisions if _is_current(known.get(each.id), each)}
    # 3. What is new or changed is asked for, in pages.
    wanted = sorted({each.id for each in revisions} - entries.keys())
    for start in range(0, len(wanted), MAX_BATCH):
        page = wanted[start : start + MAX_BATCH]
        await stream.send_message(entry_pb2.SyncAuthorizedEntriesRequest(ids=page))
        more = True
        while more:
            answer = await _next(stream)
            more = answer.more
            entries |= {entry.id: entry for entry in map(entry_from_wire, answer.entries)}
    await stream.end()
    return entries


async def _next(stream: Stream) -> Any:
    if (answer := await stream.recv_message()) is None:
        raise BAD_ANSWER.error("the server ended the synchronisation in the middle")
    return answer


def _is_current(entry: Entry | None, revision: entry_pb2.EntryRevision) -> bool:
    # The time of creation tells an ID apart that was deleted and used again.
    return (
        entry is not None
        and entry.revision == revision.revision_number
        and entry.created_at == _instant(revision.created_at)
    )


def bundle_from_wire(bundle: types_pb2.Bundle) -> TrustBundle:
    """Raises: VST1400 for a malformed trust domain."""
    return TrustBundle(
        trust_domain=TrustDomain.parse(bundle.trust_domain),
        x509_authorities=tuple(each.asn1 for each in bundle.x509_authorities),
        tainted_x509=frozenset(each.asn1 for each in bundle.x509_authorities if each.tainted),
        sequence=bundle.sequence_number,
        refresh_hint=bundle.refresh_hint,
        jwt_authorities=tuple(map(jwt_authority_from_wire, bundle.jwt_authorities)),
        wit_authorities=tuple(map(jwt_authority_from_wire, bundle.wit_authorities)),
    )


def jwt_authority_from_wire(key: types_pb2.JWTKey | types_pb2.WITKey) -> JwtAuthority:
    """A JWT or WIT authority, with what its operator thinks of it."""
    return JwtAuthority(
        key_id=key.key_id,
        public_key=key.public_key,
        expires_at=_instant(key.expires_at),
        tainted=key.tainted,
    )


def entry_from_wire(entry: types_pb2.Entry) -> Entry:
    """Raises: VST1400 for a malformed SPIFFE ID."""
    return Entry(
        id=entry.id,
        spiffe_id=_id(entry.spiffe_id),
        parent_id=_id(entry.parent_id),
        selectors=frozenset(Selector(each.type, each.value) for each in entry.selectors),
        x509_svid_ttl=_duration(entry.x509_svid_ttl),
        jwt_svid_ttl=_duration(entry.jwt_svid_ttl),
        federates_with=tuple(entry.federates_with),
        admin=entry.admin,
        downstream=entry.downstream,
        expires_at=_instant(entry.expires_at),
        dns_names=tuple(entry.dns_names),
        revision=entry.revision_number,
        store_svid=entry.store_svid,
        hint=entry.hint,
        created_at=_instant(entry.created_at),
        disable_x509_svid_prefetch=entry.additional_attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti=entry.additional_attributes.jwt_svid_include_jti,
    )


def _id(message: types_pb2.SPIFFEID) -> SpiffeId:
    return SpiffeId.of(TrustDomain.parse(message.trust_domain), message.path)


def _duration(seconds: int) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
