"""Who keeps the server busy while it is killed: an operator, and agents by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from tests.component.server_lab import DOMAIN, Calls, svid_of, wire_entry
from tests.crash.journal import Journal
from tests.crash.programs import Field

from vestibule.attest.node.join_token import JoinTokenProof
from vestibule.calls.channel import ServerChannel
from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.unix import unix_channel
from vestibule.clock import SystemClock
from vestibule.errors import Kind, VestibuleError
from vestibule.pki.chains import leaf_facts
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.records import Address
from vestibule.spiffe import TrustBundle, X509Svid
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2

RENEW_BEFORE = timedelta(seconds=4)


@asynccontextmanager
async def operator(field: Field) -> AsyncIterator[Calls]:
    """The server's services over its private socket."""
    channel = unix_channel(field.socket)
    try:
        yield Calls(channel)
    finally:
        channel.close()


async def all_entries(field: Field) -> dict[str, str]:
    """The hints of all entries, by ID."""
    async with operator(field) as calls:
        answer = await calls.entries.unary("ListEntries", entry_pb2.ListEntriesRequest())
    return {each.id: each.hint for each in answer.entries}


class Client:
    """One sequence of operations.  ``busy`` is clear while the server's state is compared with the journal."""

    def __init__(
        self, name: str, field: Field, journal: Journal, chance: random.Random, busy: asyncio.Event
    ) -> None:
        self._name = name
        self._field = field
        self._journal = journal
        self._chance = chance
        self._busy = busy
        self._made = 0
        self._mine: list[str] = []
        self.idle = asyncio.Event()
        self._svid: X509Svid | None = None
        self._bundle: TrustBundle | None = None
        self._channel = ServerChannel(
            Address(host="127.0.0.1", port=field.port),
            bundle=lambda: self._bundle,
            svid=self._credential,
            clock=SystemClock(),
        )
        self._api = IdentityApi(self._channel, DOMAIN)

    def close(self) -> None:
        self._channel.close()

    async def run(self) -> None:
        """Operations without an end."""
        operations = (self._create, self._update, self._delete, self._join, self._issue, self._issue)
        while True:
            self.idle.set()
            await self._busy.wait()
            self.idle.clear()
            operation = self._chance.choice(operations)
            try:
                async with asyncio.timeout(60):
                    await operation()
            except (VestibuleError, TimeoutError) as error:
                self._journal.lost(f"{operation.__name__}: {error}")
                if isinstance(error, VestibuleError) and error.code.kind not in (
                    Kind.UNAVAILABLE,
                    Kind.EXHAUSTED,
                ):
                    self._journal.violated(f"{operation.__name__} was refused: {error}")
                await asyncio.sleep(0.02)

    # ------------------------------------------------------------------------------------- entries

    async def _create(self) -> None:
        self._made += 1
        entry_id, hint = f"{self._name}-{self._made}", self._hint()
        entry = self._entry(entry_id, hint)
        self._journal.creating(entry_id, hint)
        self._mine.append(entry_id)
        async with operator(self._field) as calls:
            request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
            [result] = (await calls.entries.unary("BatchCreateEntry", request)).results
        if result.status.code == 0:
            self._journal.written(entry_id, hint)
        else:
            self._journal.violated(f"entry {entry_id} was refused: {result.status.message}")

    async def _update(self) -> None:
        if not self._mine:
            return
        entry_id, hint = self._chance.choice(self._mine), self._hint()
        self._journal.updating(entry_id, hint)
        async with operator(self._field) as calls:
            request = entry_pb2.BatchUpdateEntryRequest(entries=[self._entry(entry_id, hint)])
            [result] = (await calls.entries.unary("BatchUpdateEntry", request)).results
        if result.status.code == 0:
            self._journal.written(entry_id, hint)
        elif self._journal.entries[entry_id].gone:
            self._forget(entry_id)  # it was never made, or a deletion without an answer has happened
        else:
            self._journal.violated(f"entry {entry_id} is lost: {result.status.message}")

    async def _delete(self) -> None:
        if len(self._mine) < 5:
            return
        entry_id = self._chance.choice(self._mine)
        self._journal.deleting(entry_id)
        async with operator(self._field) as calls:
            request = entry_pb2.BatchDeleteEntryRequest(ids=[entry_id])
            await calls.entries.unary("BatchDeleteEntry", request)
        self._forget(entry_id)

    def _forget(self, entry_id: str) -> None:
        self._mine.remove(entry_id)
        self._journal.deleted(entry_id)

    def _entry(self, entry_id: str, hint: str) -> types_pb2.Entry:
        return wire_entry(
            f"/w/{entry_id}", f"/nodes/{self._name}", f"unix:uid:{4_000_000}", id=entry_id, hint=hint
        )

    def _hint(self) -> str:
        return f"{self._chance.getrandbits(32):08x}"

    # -------------------------------------------------------------------------------------- agents

    async def _join(self) -> None:
        """A new agent, and a second one that tries the same token at the same time."""
        token = f"{self._chance.getrandbits(64):016x}"
        alias = types_pb2.SPIFFEID(trust_domain=str(DOMAIN), path=f"/nodes/{self._name}")
        async with operator(self._field) as calls:
            request = agent_pb2.CreateJoinTokenRequest(ttl=600, token=token)
            await calls.agents.unary("CreateJoinToken", request)
            self._journal.note("token", token=token, alias=alias.path)
        self._bundle = self._bundle or await self._first_bundle()
        self._show(None)
        outcomes = await asyncio.gather(self._attest(token), self._attest(token), return_exceptions=True)
        svids = [each for each in outcomes if isinstance(each, X509Svid)]
        for svid in svids:
            self._journal.joined(token)
            self._journal.issued([svid.serial])
        if svids:
            self._show(svids[0])
        failed = [each for each in outcomes if isinstance(each, VestibuleError)]
        # Of two with one token, one is let in: unless the answer that it was got lost.
        if not svids and all(each.code.kind is not Kind.UNAVAILABLE for each in failed):
            self._journal.violated(f"token {token} let in nobody: {[str(each) for each in failed]}")
        if not svids:
            self._journal.lost("join")

    async def _attest(self, token: str) -> X509Svid:
        key = generate_key()
        return svid_of(await self._api.attest(JoinTokenProof(token), make_csr(key)), key)

    async def _issue(self) -> None:
        """An SVID for an entry; before that, whatever keeps this agent an agent."""
        if self._svid is None:
            return
        await self._keep_own()
        entries = await self._api.authorized_entries({})
        chosen = {each: make_csr(generate_key()) for each in list(entries)[:5]}
        if chosen:
            answers = await self._api.new_svids(chosen)
            chains = [each for each in answers.values() if isinstance(each, tuple)]
            self._journal.issued(int(leaf_facts(chain[0]).serial) for chain in chains)

    async def _keep_own(self) -> None:
        assert self._svid is not None
        left = self._svid.not_after - datetime.now(UTC)
        if left > RENEW_BEFORE:
            return
        key = generate_key()
        if left > timedelta(seconds=1):
            chain = await self._api.renew(make_csr(key))
        else:
            self._channel.renew()
            chain = await self._api.come_back(self._svid, make_csr(key))
        svid = svid_of(chain, key)
        self._journal.issued([svid.serial])
        self._show(svid)

    def _show(self, svid: X509Svid | None) -> None:
        self._svid = svid
        self._channel.renew()

    def _credential(self) -> X509Svid | None:
        if self._svid is None or self._svid.not_after <= datetime.now(UTC) + timedelta(seconds=1):
            return None
        return self._svid

    async def _first_bundle(self) -> TrustBundle:
        channel = unix_channel(self._field.socket)
        try:
            return await IdentityApi(channel, DOMAIN).bundle()  # type: ignore[arg-type]
        finally:
            channel.close()
