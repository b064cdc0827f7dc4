"""What ``vestibule up`` does as the operator, over the server's private socket, with SPIRE's own APIs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vestibule.app.up.codes import ENTRY_REFUSED
from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.pki.chains import leaf_facts
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

SELECTOR_TYPE: Final = "supervised"
SELECTOR_PREFIX: Final = "service:"
TOKEN_SECONDS: Final = 120
PAGE: Final = 500


class Operator:
    """A client of the server's private socket.  Every method raises the server's errors, and VST2300."""

    def __init__(self, socket: Path) -> None:
        self._channel = unix_channel(socket)
        self._agents = Client(self._channel, agent_pb2.DESCRIPTOR.services_by_name["Agent"])
        self._bundles = Client(self._channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
        self._entries = Client(self._channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        self._svids = Client(self._channel, svid_pb2.DESCRIPTOR.services_by_name["SVID"])
        self._admin = Client(self._channel, admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    async def join_token(self) -> str:
        """A fresh token that lets one agent join once, soon.  A secret until it is used."""
        request = agent_pb2.CreateJoinTokenRequest(ttl=TOKEN_SECONDS)
        answer = await self._agents.unary("CreateJoinToken", request)
        return str(answer.value)

    async def bundle(self) -> TrustBundle:
        """The trust domain's current bundle."""
        bundle = await self._bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
        return TrustBundle(
            trust_domain=TrustDomain.parse(bundle.trust_domain),
            x509_authorities=tuple(each.asn1 for each in bundle.x509_authorities),
            sequence=bundle.sequence_number,
            refresh_hint=bundle.refresh_hint,
        )

    async def status(self) -> Any:
        """What the server says of itself, its intent, agents and proxies (an ``admin_pb2.ServerStatus``)."""
        return await self._admin.unary("GetStatus", admin_pb2.GetServerStatusRequest(), timeout=5.0)

    async def mint(self, spiffe_id: SpiffeId, ttl: int = 600) -> X509Svid:
        """A real SVID for any identity of the trust domain, which is the operator's right alone."""
        key = generate_key()
        request = svid_pb2.MintX509SVIDRequest(csr=make_csr(key, spiffe_id), ttl=ttl)
        answer = await self._svids.unary("MintX509SVID", request)
        chain = tuple(answer.svid.cert_chain)
        facts = leaf_facts(chain[0])
        return X509Svid(
            spiffe_id=facts.spiffe_id,
            chain=chain,
            key=key_to_pkcs8(key),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )

    async def register(self, agent: SpiffeId, services: Mapping[str, SpiffeId]) -> dict[str, str]:
        """One entry per service under ``agent``, by supervision; entries of earlier runs are taken over.

        Supervised entries of services that are not named are deleted: nobody vouches for them any more.
        Returns the entry ids by service.  Raises: VST7305 for an entry that the server refuses.
        """
        known = {_service_of(entry): entry for entry in await self._supervised_entries()}
        stale = [entry.id for name, entry in known.items() if name not in services]
        if stale:
            await self._entries.unary("BatchDeleteEntry", entry_pb2.BatchDeleteEntryRequest(ids=stale))
        wanted = {name: _entry(name, agent, spiffe_id) for name, spiffe_id in services.items()}
        ids = {}
        updates, creations = [], []
        for name, entry in wanted.items():
            if name in known:
                entry.id = ids[name] = known[name].id
                updates.append(entry)
            else:
                creations.append(entry)
        if updates:
            mask = types_pb2.EntryMask(spiffe_id=True, parent_id=True, selectors=True, x509_svid_ttl=True)
            await self._update(updates, mask)
        if creations:
            request = entry_pb2.BatchCreateEntryRequest(entries=creations)
            answer = await self._entries.unary("BatchCreateEntry", request)
            for result in answer.results:
                _check(result)
                ids[_service_of(result.entry)] = result.entry.id
        return ids

    async def set_ttl(self, entry_ids: Iterable[str], seconds: int) -> None:
        """The lifetime of SVIDs that are issued for these entries from now on; 0 for the server's default."""
        entries = [types_pb2.Entry(id=each, x509_svid_ttl=seconds) for each in entry_ids]
        await self._update(entries, types_pb2.EntryMask(x509_svid_ttl=True))

    async def remove_agents_except(self, agent: SpiffeId) -> None:
        """Delete the agents of earlier runs, whose keys are gone."""
        answer = await self._agents.unary("ListAgents", agent_pb2.ListAgentsRequest(page_size=PAGE))
        for other in answer.agents:
            if _spiffe_id(other.id) != agent:
                await self._agents.unary("DeleteAgent", agent_pb2.DeleteAgentRequest(id=other.id))

    async def _update(self, entries: list[types_pb2.Entry], mask: types_pb2.EntryMask) -> None:
        request = entry_pb2.BatchUpdateEntryRequest(entries=entries, input_mask=mask)
        for result in (await self._entries.unary("BatchUpdateEntry", request)).results:
            _check(result)

    async def _supervised_entries(self) -> list[types_pb2.Entry]:
        found: list[types_pb2.Entry] = []
        token = ""
        while True:
            request = entry_pb2.ListEntriesRequest(page_size=PAGE, page_token=token)
            answer = await self._entries.unary("ListEntries", request)
            found += [entry for entry in answer.entries if _service_of(entry)]
            token = answer.next_page_token
            if not token:
                return found


def _entry(service: str, agent: SpiffeId, spiffe_id: SpiffeId) -> types_pb2.Entry:
    return types_pb2.Entry(
        spiffe_id=_wire_id(spiffe_id),
        parent_id=_wire_id(agent),
        selectors=[types_pb2.Selector(type=SELECTOR_TYPE, value=SELECTOR_PREFIX + service)],
    )


def _service_of(entry: types_pb2.Entry) -> str:
    """The service that a supervised entry is for; empty for any other entry."""
    if len(entry.selectors) != 1 or entry.selectors[0].type != SELECTOR_TYPE:
        return ""
    value = entry.selectors[0].value
    return value.removeprefix(SELECTOR_PREFIX) if value.startswith(SELECTOR_PREFIX) else ""


def _wire_id(spiffe_id: SpiffeId) -> types_pb2.SPIFFEID:
    return types_pb2.SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def _spiffe_id(wire: types_pb2.SPIFFEID) -> SpiffeId:
    return SpiffeId.of(TrustDomain.parse(wire.trust_domain), wire.path)


def _check(result: Any) -> None:
    # 6 is ALREADY_EXISTS, whose answer holds the entry that exists (SPIRE's entry API).
    if result.status.code not in (0, 6):
        raise ENTRY_REFUSED.error(f"the server refused an entry: {result.status.message}")
