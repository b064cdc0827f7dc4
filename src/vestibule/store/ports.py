"""The storage ports, which ``store.sqlite`` and ``store.postgres`` fill; both pass ``tests/contract/test_stores.py``.

Every method that changes something has done so durably when it returns, and then publishes the change.
Every method may raise the errors of storage itself: VST8000 (unusable), VST8001 (full), VST8002 (busy),
VST8003 (damaged), VST8005 (a value that cannot be kept), VST8006 (unreachable), VST8007 (refused).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar

from vestibule.errors import VestibuleError
from vestibule.records import (
    Administrator,
    AgentMark,
    AgentRecord,
    AppendedAuthority,
    Authority,
    BundleDeletion,
    Emergency,
    Entry,
    FederationRelationship,
    Instance,
    JoinToken,
    JwtKey,
    KeptIntent,
    LowerAuthority,
    Place,
    PublishedCrl,
    PublishedJwtKey,
    RolloutRecord,
    SealedRow,
    UpstreamRoot,
)
from vestibule.spiffe import Revocation, Selector, SpiffeId, TrustBundle, TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.filters import AgentFilter, EntryFilter

T = TypeVar("T")

Rewrite: TypeAlias = Callable[[Mapping[Place, SealedRow]], Sequence[SealedRow | Place]]
"""From the rows that are there, what shall be: a row in place of what its place holds, a place for nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A part of a listing; ``next_token`` asks for the following one and is empty on the last."""

    items: tuple[T, ...]
    next_token: str = ""


class Entries(Protocol):
    """Registration entries.  Two are *similar* if SPIFFE ID, parent ID and selectors are equal."""

    async def create(self, entry: Entry) -> tuple[Entry, bool]:
        """Keep a new entry, giving it an ID if it has none, revision 0 and its time of creation.

        If a similar one exists, that one is returned instead, with ``False``.
        Raises: VST8010 when the given ID is taken by an entry that is not similar, VST8014 when it federates with a
        trust domain whose bundle is not kept.
        """
        ...

    async def create_many(self, entries: Sequence[Entry]) -> list[tuple[Entry, bool] | VestibuleError]:
        """``create`` for each, with one disk flush for all; an entry's own error stands in its place."""
        ...

    async def update(self, entry: Entry) -> Entry:
        """Replace the entry of this ID; revision and creation time are the store's business.

        Raises: VST8011 (no such entry), VST8012 (it would become similar to another one), VST8014 (it would begin to
        federate with a trust domain whose bundle is not kept).
        """
        ...

    async def update_many(self, entries: Sequence[Entry]) -> list[Entry | VestibuleError]:
        """``update`` for each, in their order, with one disk flush for all; an error stands in its entry's place."""
        ...

    async def delete(self, entry_id: str) -> bool:
        """Forget an entry; whether there was one."""
        ...

    async def get(self, entry_id: str) -> Entry | None:
        """The entry of this ID."""
        ...

    async def all(self) -> list[Entry]:
        """All entries, by ID."""
        ...

    async def page(self, filter: EntryFilter, size: int, token: str = "") -> Page[Entry]:  # noqa: A002
        """Up to ``size`` (0: all) entries by ID, from where ``token`` points.  Raises: VST8013 (token)."""
        ...

    async def count(self, filter: EntryFilter) -> int:  # noqa: A002
        """How many entries there are."""
        ...


class Agents(Protocol):
    """Attested agents, known by SPIFFE ID."""

    async def put(self, agent: AgentRecord) -> AgentRecord:
        """Keep an attested agent, new or attested again.  Returns what is now kept.

        A ban is never lifted by this: the result's ``banned`` is true if the agent was banned before.
        """
        ...

    async def update(self, agent: AgentRecord) -> AgentRecord | None:
        """As ``put``, but only for an agent that is known and not banned; ``None`` if it is not.

        For renewals: an agent evicted or banned meanwhile does not come back by a write that raced it.
        """
        ...

    async def get(self, spiffe_id: SpiffeId) -> AgentRecord | None:
        """The agent of this SPIFFE ID."""
        ...

    async def banned(self) -> dict[SpiffeId, bool]:
        """Of each agent that is known, whether it is banned."""
        ...

    async def selectors(self) -> dict[SpiffeId, frozenset[Selector]]:
        """What was attested of the nodes of agents that are not banned; without those of which nothing was."""
        ...

    async def page(self, filter: AgentFilter, size: int, token: str = "") -> Page[AgentRecord]:  # noqa: A002
        """Up to ``size`` (0: all) agents by SPIFFE ID, from where ``token`` points.  Raises: VST8013."""
        ...

    async def count(self, filter: AgentFilter) -> int:  # noqa: A002
        """How many agents there are."""
        ...

    async def set_banned(self, spiffe_id: SpiffeId, banned: bool = True) -> bool:
        """Ban an agent, or lift its ban; whether it is known."""
        ...

    async def delete(self, spiffe_id: SpiffeId) -> bool:
        """Forget an agent; whether it was known."""
        ...


class JoinTokens(Protocol):
    """Join tokens, of which only a SHA-256 is kept."""

    async def add(self, token: JoinToken) -> None:
        """Keep a new token.  Raises: VST8023 when it is known already, used or not."""
        ...

    async def consume(self, token: str, now: datetime) -> JoinToken:
        """Use a token up.  Of any number of concurrent callers, in any process, exactly one succeeds.

        Raises: VST8020 (unknown), VST8021 (used before), VST8022 (expired).
        """
        ...

    async def prune(self, before: datetime) -> int:
        """Forget tokens that expired before this instant, used or not; how many."""
        ...


class Authorities(Protocol):
    """The trust domain's signing authorities, in any state."""

    async def all(self) -> list[Authority]:
        """All of them, oldest first."""
        ...

    async def put(self, *authorities: Authority) -> None:
        """Keep them, new or changed, in one step: activating one and retiring another never half happens."""
        ...

    async def delete(self, authority_id: str) -> bool:
        """Forget one; whether it was known."""
        ...


class JwtKeys(Protocol):
    """The trust domain's signing authorities of JWT-SVIDs, or of WIT-SVIDs, in any state."""

    async def all(self) -> list[JwtKey]:
        """All of them, oldest first."""
        ...

    async def put(self, *keys: JwtKey) -> None:
        """Keep them, new or changed, in one step: activating one and retiring another never half happens."""
        ...

    async def delete(self, key_id: str) -> bool:
        """Forget the one of this ``id``; whether it was known."""
        ...


class UpstreamRoots(Protocol):
    """Roots of an upstream authority that are tainted or revoked here."""

    async def all(self) -> list[UpstreamRoot]:
        """All of them, oldest first."""
        ...

    async def put(self, *roots: UpstreamRoot) -> None:
        """Keep them, new or changed, in one step."""
        ...

    async def delete(self, root_id: str) -> bool:
        """Forget one; whether it was known."""
        ...


class PublishedJwtKeys(Protocol):
    """The signing authorities of JWT-SVIDs, or of WIT-SVIDs, of downstream servers."""

    async def all(self) -> list[PublishedJwtKey]:
        """All of them, oldest first."""
        ...

    async def put(self, *keys: PublishedJwtKey) -> None:
        """Keep them, new or changed, in one step."""
        ...

    async def delete(self, key_id: str) -> bool:
        """Forget the one of this ``id``; whether it was known."""
        ...


class LowerAuthorities(Protocol):
    """The signing certificates of servers below, as long as they are valid."""

    async def all(self) -> list[LowerAuthority]:
        """All that are kept, the first to end first."""
        ...

    async def put(self, authority: LowerAuthority, now: datetime) -> None:
        """Keep one, and forget those that ended before ``now``."""
        ...


class AppendedAuthorities(Protocol):
    """What operators put into the trust domain's bundle."""

    async def all(self) -> list[AppendedAuthority]:
        """All of them, oldest first."""
        ...

    async def put(self, *authorities: AppendedAuthority) -> None:
        """Keep them, new or known, in one step."""
        ...

    async def delete(self, authority_id: str) -> bool:
        """Forget one; whether it was known."""
        ...


class Bundles(Protocol):
    """Trust bundles: ours, and those of others."""

    async def get(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The latest bundle of a trust domain."""
        ...

    async def put(self, bundle: TrustBundle) -> None:
        """Keep a trust domain's bundle in place of the one before."""
        ...

    async def revise(
        self, trust_domain: TrustDomain, change: Callable[[TrustBundle | None], TrustBundle | None]
    ) -> TrustBundle | None:
        """Keep what ``change`` makes of the bundle that is kept, in one step; ``None`` changes nothing.

        ``change`` may raise, and then nothing is changed either.  Returns what ``change`` returned.
        """
        ...

    async def page(self, size: int, token: str = "") -> Page[TrustBundle]:
        """Up to ``size`` (0: all) bundles by trust domain, from where ``token`` points.  Raises: VST8013."""
        ...

    async def count(self) -> int:
        """How many bundles there are, ours among them."""
        ...

    async def delete(
        self, trust_domain: TrustDomain, mode: BundleDeletion, known: AbstractSet[str] = frozenset()
    ) -> bool:
        """Forget a bundle, and do with the entries that federate with it what ``mode`` says, in one step.

        ``known`` are the IDs of entries that the caller expects to be concerned (and has put on record).
        Returns whether there was a bundle.
        Raises: VST8030 (``RESTRICT``, and there are such entries), VST8031 (some are not among the ``known``).
        """
        ...


class Relationships(Protocol):
    """Federation relationships, one for each foreign trust domain at most."""

    async def all(self) -> list[FederationRelationship]:
        """All of them, by trust domain."""
        ...

    async def get(self, trust_domain: TrustDomain) -> FederationRelationship | None:
        """The relationship with a trust domain."""
        ...

    async def page(self, size: int, token: str = "") -> Page[FederationRelationship]:
        """Up to ``size`` (0: all) of them by trust domain, from where ``token`` points.  Raises: VST8013."""
        ...

    async def create(self, relationship: FederationRelationship, bundle: TrustBundle | None = None) -> None:
        """Keep a new one, and in the same step its trust domain's bundle, if given.  Raises: VST8032."""
        ...

    async def revise(
        self,
        trust_domain: TrustDomain,
        change: Callable[[FederationRelationship], FederationRelationship],
        bundle: TrustBundle | None = None,
    ) -> FederationRelationship:
        """Keep what ``change`` makes of one, and in the same step its trust domain's bundle, if given.

        Raises: VST8033.
        """
        ...

    async def fetched(self, trust_domain: TrustDomain, at: datetime) -> None:
        """Note when the bundle was last fetched.  Published to nobody; nothing happens if there is no relationship."""
        ...

    async def delete(self, trust_domain: TrustDomain) -> bool:
        """Forget one; whether there was one.  The bundle stays."""
        ...


class Instances(Protocol):
    """Running copies of services, each under a lease."""

    async def put(self, instance: Instance) -> None:
        """Keep an instance, new or renewed."""
        ...

    async def delete(self, instance_id: str) -> bool:
        """Forget one; whether it was known."""
        ...

    async def all(self) -> list[Instance]:
        """All of them, by ID, whether their leases run or not."""
        ...

    async def extend_leases(self, until: datetime) -> None:
        """Let no lease end before ``until``: after an outage of ours, nobody could renew in time."""
        ...

    async def renew(self, instance_ids: Sequence[str], until: datetime) -> None:
        """Let the leases of these run until then; unknown ones stay unknown.  No change that anybody is told of."""
        ...

    async def expire(self, now: datetime) -> list[Instance]:
        """Forget the instances whose leases are over, and return them."""
        ...


class RevocationList(Protocol):
    """What is revoked, by what it is."""

    async def all(self) -> list[Revocation]:
        """All of them, oldest version first."""
        ...

    async def version(self) -> int:
        """The highest version among them; 0 for none."""
        ...

    async def put(self, *changes: Revocation) -> None:
        """Keep them, new or changed, in one step; one that is known with a higher version stays as it is."""
        ...

    async def prune(self, now: datetime) -> int:
        """Forget those that are over at ``now``; how many."""
        ...


class AgentMarks(Protocol):
    """The marks of agents, current and retired."""

    async def all(self) -> list[AgentMark]:
        """All of them, oldest first."""
        ...

    async def add(self, mark: AgentMark) -> None:
        """Keep a new one."""
        ...

    async def retire(self, agent_id: SpiffeId, at: datetime) -> None:
        """End the use of an agent's current mark, if it has one."""
        ...

    async def prune(self, before: datetime) -> int:
        """Forget those that were retired before this instant; how many."""
        ...


class Crls(Protocol):
    """The newest certificate revocation list of each authority."""

    async def all(self) -> list[PublishedCrl]:
        """All of them, by authority."""
        ...

    async def put(self, crl: PublishedCrl) -> None:
        """Keep an authority's list in place of the one before."""
        ...

    async def prune(self, now: datetime) -> int:
        """Forget those whose next update is past; how many."""
        ...


class Administrators(Protocol):
    """Who may administer what, beside those who may everything."""

    async def all(self) -> list[Administrator]:
        """All of them, by ID."""
        ...

    async def put(self, administrator: Administrator) -> None:
        """Keep one, new or changed."""
        ...

    async def delete(self, administrator_id: str) -> bool:
        """Forget one; whether it was known."""
        ...


class IntentHistory(Protocol):
    """The intents that were taken up, and how far the rollout of the newest is."""

    async def record(self, state: RolloutRecord, *intents: KeptIntent) -> bool:
        """Keep a state in place of the one whose revision is one less, and with it intents, in one step.

        An intent of number 0 is new, any other gets a new outcome.  False, and nothing is kept, where another
        server changed the state first.
        """
        ...

    async def state(self) -> RolloutRecord | None:
        """How far the rollout is; ``None`` before the first intent."""
        ...

    async def all(self) -> list[KeptIntent]:
        """All intents, the newest first, without their files."""
        ...

    async def latest(self, version: str) -> KeptIntent | None:
        """The newest intent of this version, with its files."""
        ...

    async def prune(self, keep: int, spare: AbstractSet[str]) -> int:
        """Forget all but the newest ``keep`` intents and those of the versions in ``spare``; how many."""
        ...


class Emergencies(Protocol):
    """Permissions of break-glass: those that hold, and those that did."""

    async def all(self) -> list[Emergency]:
        """All of them, oldest first."""
        ...

    async def add(self, emergency: Emergency) -> None:
        """Keep a new one."""
        ...

    async def close(self, emergency_id: str, at: datetime, by: str) -> Emergency | None:
        """End one; what is now kept, or ``None`` if there is none of this ID that is not ended already."""
        ...

    async def used(self, emergency_id: str, count: int) -> bool:
        """Add to the number of its uses; whether it is known.  Published to nobody."""
        ...

    async def prune(self, before: datetime) -> int:
        """Forget those that ended before this instant; how many."""
        ...


class SealedRows(Protocol):
    """What the secret manager keeps, encrypted: a body under each place, which is a space and a key in it."""

    async def get(self, space: str, key: str) -> SealedRow | None:
        """The row at a place, of the last commit; made to be cheap: no cache is needed in front of it."""
        ...

    async def keys(self, space: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """Up to ``limit`` keys that begin with ``prefix``, in byte order, behind ``after``."""
        ...

    async def children(self, space: str, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Up to ``limit`` next segments below ``prefix`` (empty, or ends with ``/``), in byte order, behind ``after``.

        One with something below it ends with ``/``.  What is below it is skipped, not read.
        """
        ...

    async def revise(self, places: Sequence[Place], change: Rewrite, *, quiet: bool = False) -> None:
        """Make of the rows at ``places`` what ``change`` makes of them, in one step; ``quiet`` tells nobody.

        ``change`` may raise, and then nothing is changed.  It may be called with what is there only, and only once.
        """
        ...

    async def sealed_before(self, key_id: int, limit: int) -> list[Place]:
        """Up to ``limit`` places of rows that an older key of the keyring sealed: a ``key_id`` from 1 up to this."""
        ...

    def snapshot(self, *, bodies_of: str | None = None) -> AsyncGenerator[SealedRow, None]:
        """All rows, by place, as they are at one instant; with ``bodies_of``, those of other spaces have empty bodies.

        An asynchronous generator, to be closed: it holds a connection while it runs.
        """
        ...

    async def replace_all(self, rows: AsyncIterable[SealedRow], *, overwrite: bool) -> bool:
        """Keep these rows in place of all, in one step; False, and nothing is done, where there are some already.

        ``overwrite`` does it even then.  ``rows`` may raise, and then nothing is changed.
        """
        ...


class Store(Protocol):
    """Everything that is kept."""

    @property
    def entries(self) -> Entries: ...
    @property
    def agents(self) -> Agents: ...
    @property
    def join_tokens(self) -> JoinTokens: ...
    @property
    def authorities(self) -> Authorities: ...
    @property
    def jwt_keys(self) -> JwtKeys: ...
    @property
    def upstream_roots(self) -> UpstreamRoots: ...
    @property
    def published_jwt_keys(self) -> PublishedJwtKeys: ...
    @property
    def wit_keys(self) -> JwtKeys: ...
    @property
    def published_wit_keys(self) -> PublishedJwtKeys: ...
    @property
    def appended_authorities(self) -> AppendedAuthorities: ...
    @property
    def lower_authorities(self) -> LowerAuthorities: ...
    @property
    def bundles(self) -> Bundles: ...
    @property
    def relationships(self) -> Relationships: ...
    @property
    def instances(self) -> Instances: ...
    @property
    def revocations(self) -> RevocationList: ...
    @property
    def agent_marks(self) -> AgentMarks: ...
    @property
    def crls(self) -> Crls: ...
    @property
    def administrators(self) -> Administrators: ...
    @property
    def intents(self) -> IntentHistory: ...
    @property
    def emergencies(self) -> Emergencies: ...
    @property
    def sealed_rows(self) -> SealedRows: ...
    @property
    def changes(self) -> Changes: ...
    @property
    def leads(self) -> bool:
        """Whether this server does what has to be done once for all the servers on a database; alone: always."""
        ...

    def observe(self, observer: Callable[[str, float, str], None]) -> None:
        """Tell ``observer`` of every transaction: ``read`` or ``write``, seconds, code of its failure or empty."""
        ...

    async def run(self) -> None:
        """Follow what other servers change, so that the change feed tells of it; returns if there cannot be any."""
        ...

    async def close(self) -> None:
        """End the change feed and let go of the database."""
        ...
