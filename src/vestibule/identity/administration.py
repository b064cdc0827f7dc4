"""Who may administer what: full administrators, and those whose powers have bounds.

A grant is all or nothing for one act: what is asked for has to lie within a single grant, so that the path of one and
the features of another never add up to what nobody granted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import ADMINISTRATOR_NOT_FOUND, INVALID_ADMINISTRATOR, OUT_OF_SCOPE
from vestibule.identity.names import workload_id
from vestibule.pki.names import dns_name
from vestibule.records import Administrator, Entry
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import EntryFilter, Store

ENTRIES: Final = "entries"
AGENTS: Final = "agents"
TOKENS: Final = "tokens"
MINT: Final = "mint"
FEDERATION: Final = "federation"
READ: Final = "read"
POWERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ENTRIES: "create, change and delete entries within the bounds",
        AGENTS: "list, ban and evict agents within the bounds",
        TOKENS: "make join tokens",
        MINT: "mint SVIDs of identities within the bounds",
        FEDERATION: "manage federation relationships and federated bundles",
        READ: "see entries within the bounds",
    }
)
FEATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "admin": "entries that make their identity a full administrator",
        "downstream": "entries that make their identity a downstream server",
        "federates_with": "entries with federated bundles",
        "dns_names": "DNS names, with one of the suffixes",
        "store_svid": "entries for SVID stores",
        "templates": "entries with a template",
        "jwt_claims": "claims of JWT-SVIDs",
    }
)
MOST: Final = 1000
_MAX_BOUNDS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The server's TTLs, for entries that do not say: a ceiling holds for them, too."""

    x509_svid_ttl: timedelta
    jwt_svid_ttl: timedelta


@dataclass(frozen=True, slots=True)
class Scope:
    """What one caller may administer.  ``full`` is everything; else each act has to fit one of the grants."""

    grants: tuple[Administrator, ...] = ()
    defaults: Defaults = Defaults(x509_svid_ttl=timedelta.max, jwt_svid_ttl=timedelta.max)
    full: bool = False
    rights: Callable[[SpiffeId], Sequence[str]] = lambda _: ()
    """What an identity may do over the server: ``admin``, ``downstream``.  Who can be it, can do that."""

    def may(self, *powers: str) -> bool:
        """Whether there is any of these powers, whatever its bounds."""
        return self.full or any(power in grant.powers for grant in self.grants for power in powers)

    def permit(self, before: Entry | None, after: Entry | None) -> None:
        """Whether the caller may make ``after`` out of ``before``; both have to lie within its bounds.

        Raises: VST1355.
        """
        for entry in (before, after):
            if entry is not None:
                self._one(ENTRIES, partial(self._entry_problem, entry))

    def sees(self, entry: Entry) -> bool:
        """Whether the caller may learn of an entry."""
        return self.full or any(
            (ENTRIES in grant.powers or READ in grant.powers)
            and _within(entry.spiffe_id, grant.paths)
            and _within(entry.parent_id, grant.parents)
            for grant in self.grants
        )

    def permit_agent(self, agent_id: SpiffeId) -> None:
        """Whether the caller may act on this agent.  Raises: VST1355."""
        self._one(AGENTS, lambda grant: _outside("the agent", agent_id, grant.parents))

    def sees_agent(self, agent_id: SpiffeId) -> bool:
        """Whether the caller may learn of an agent."""
        return self.full or any(
            AGENTS in grant.powers and _within(agent_id, grant.parents) for grant in self.grants
        )

    def permit_token(self, alias: SpiffeId | None, chosen: SpiffeId | None = None) -> None:
        """Whether the caller may make a join token whose agent also is ``alias``.

        ``chosen`` is the agent that a token of the caller's own choice joins as: it takes that agent's place, and gets
        what that agent gets.  Raises: VST1355.
        """

        def problem(grant: Administrator) -> str:
            return (chosen is not None and _outside("the agent", chosen, grant.parents)) or (
                ""
                if alias is None
                else _outside("the alias", alias, grant.paths) or self._rights_problem(grant, alias)
            )

        self._one(TOKENS, problem)

    def permit_mint(
        self, spiffe_id: SpiffeId, dns_names: Sequence[str], ttl: timedelta | None, *, jwt: bool
    ) -> None:
        """Whether the caller may have an SVID of this identity.  Raises: VST1355."""

        def problem(grant: Administrator) -> str:
            ceiling = grant.max_jwt_svid_ttl if jwt else grant.max_x509_svid_ttl
            default = self.defaults.jwt_svid_ttl if jwt else self.defaults.x509_svid_ttl
            return (
                _outside("the SPIFFE ID", spiffe_id, grant.paths)
                or self._rights_problem(grant, spiffe_id)
                or _dns_problem(grant, dns_names)
                or _ttl_problem("TTL", ttl or default, ceiling)
            )

        self._one(MINT, problem)

    def _entry_problem(self, entry: Entry, grant: Administrator) -> str:
        return _entry_problem(grant, entry, self.defaults) or self._rights_problem(grant, entry.spiffe_id)

    def _rights_problem(self, grant: Administrator, spiffe_id: SpiffeId) -> str:
        # Rights are an identity's, not one entry's: a plain entry for it, or an SVID, gives them away as well.
        lacking = [name for name in self.rights(spiffe_id) if name not in grant.features]
        return (
            f"{spiffe_id} has rights of the feature {lacking[0]!r}, which is not granted" if lacking else ""
        )

    def _one(self, power: str, problem: Callable[[Administrator], str]) -> None:
        if self.full:
            return
        problems = [problem(grant) for grant in self.grants if power in grant.powers]
        if "" not in problems:
            raise OUT_OF_SCOPE.error(problems[0] if problems else f"the caller lacks the power {power!r}")


FULL: Final = Scope(full=True)
NOTHING: Final = Scope()


class Administration:
    """Knows every administrator, and grants and revokes: on record, then done."""

    def __init__(
        self,
        store: Store,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        powers: Callable[[SpiffeId], tuple[Entry, ...]],
        defaults: Defaults,
        admin_ids: Iterable[SpiffeId] = (),
    ) -> None:
        """``powers`` gives an identity's live ``admin`` entries; ``admin_ids`` are full administrators by setting."""
        self._store = store
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._powers = powers
        self._defaults = defaults
        self._admin_ids = frozenset(admin_ids)
        self._all: tuple[Administrator, ...] = ()
        self._changes = store.changes.subscribe("administrators")
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Read the store for the first time."""
        await self._refresh()

    async def run(self) -> None:
        """Follow the store until its change feed ends."""
        await self._refresh()
        async for _ in self._changes:
            await self._refresh()

    async def _refresh(self) -> None:
        self._all = tuple(await self._store.administrators.all())

    @property
    def all(self) -> tuple[Administrator, ...]:
        """Every grant, expired ones included, by ID."""
        return self._all

    def scope_of(self, spiffe_id: SpiffeId) -> Scope:
        """What an authenticated workload may administer now; ``NOTHING`` for most.

        1. The setting ``admin_ids``, or a live entry with ``admin``, makes a full administrator (SPIRE's rule).
        2. Grants that have not expired.
        """
        if spiffe_id in self._admin_ids or any(entry.admin for entry in self._powers(spiffe_id)):  # 1
            return FULL
        now = self._clock.now()
        grants = tuple(  # 2
            each
            for each in self._all
            if each.spiffe_id == spiffe_id and (each.expires_at is None or each.expires_at > now)
        )
        return Scope(grants, self._defaults, rights=self.rights) if grants else NOTHING

    def rights(self, spiffe_id: SpiffeId) -> tuple[str, ...]:
        """What an identity may do over the server, in the names of ``FEATURES``; a grant of any bounds is ``admin``."""
        entries = self._powers(spiffe_id)
        granted = any(each.spiffe_id == spiffe_id for each in self._all)
        found = {
            "admin": granted or spiffe_id in self._admin_ids or any(each.admin for each in entries),
            "downstream": any(each.downstream for each in entries),
        }
        return tuple(name for name, has in found.items() if has)

    async def grant(self, actor: str, wanted: Administrator) -> Administrator:
        """Keep a new grant.  Raises: VST1356, VST1204, VST1205, VST1011, errors of the audit log."""
        checked = self._checked(wanted)
        await self._check_not_derived(checked.spiffe_id)
        made = replace(checked, id=str(uuid.uuid4()), created_at=self._clock.now(), created_by=actor)
        async with self._changing:
            if len(self._all) >= MOST:
                raise INVALID_ADMINISTRATOR.error(f"there are {len(self._all)} grants; {MOST} is the limit")
            await self._audit.record([_event(actor, "administrator.grant", made)])
            await self._store.administrators.put(made)
            await self._refresh()
        return made

    async def revoke(self, actor: str, administrator_id: str) -> None:
        """Take a grant back; it counts no more from the next call on.  Raises: VST1357."""
        async with self._changing:
            known = next((each for each in self._all if each.id == administrator_id), None)
            if known is None:
                raise ADMINISTRATOR_NOT_FOUND.error(f"there is no grant {administrator_id[:80]!r}")
            await self._audit.record([_event(actor, "administrator.revoke", known)])
            await self._store.administrators.delete(administrator_id)
            await self._refresh()

    async def _check_not_derived(self, spiffe_id: SpiffeId) -> None:
        """Who has an identity of a template has it by an agent's word, which must not make an administrator."""
        known = await self._store.entries.page(EntryFilter(spiffe_id=spiffe_id), 0)
        if any(each.template_id for each in known.items):
            raise INVALID_ADMINISTRATOR.error(f"{spiffe_id} comes from a template, and may not administer")

    def _checked(self, wanted: Administrator) -> Administrator:
        workload_id(wanted.spiffe_id, self._trust_domain)
        for what, names, known in (
            ("power", wanted.powers, POWERS),
            ("feature", wanted.features, FEATURES),
        ):
            for name in names:
                if name not in known:
                    raise INVALID_ADMINISTRATOR.error(
                        f"there is no {what} {name[:80]!r}", advice=f"Known are: {', '.join(known)}."
                    )
        if not wanted.powers:
            raise INVALID_ADMINISTRATOR.error("a grant needs at least one power")
        bounds = (*wanted.paths, *wanted.parents, *wanted.dns_suffixes)
        if len(bounds) > _MAX_BOUNDS:
            raise INVALID_ADMINISTRATOR.error(f"{len(bounds)} bounds; {_MAX_BOUNDS} is the limit")
        for path in (*wanted.paths, *wanted.parents):
            self._check_path(path)
        for power, needed, bound in (
            (ENTRIES, wanted.paths, "path"),
            (ENTRIES, wanted.parents, "parent"),
            (READ, wanted.paths, "path"),
            (READ, wanted.parents, "parent"),
            (MINT, wanted.paths, "path"),
            (AGENTS, wanted.parents, "parent"),
        ):
            if power in wanted.powers and not needed:
                raise INVALID_ADMINISTRATOR.error(
                    f"the power {power!r} needs a {bound} that bounds it; / is everything"
                )
        for ttl in (wanted.max_x509_svid_ttl, wanted.max_jwt_svid_ttl):
            if ttl is not None and ttl < timedelta(seconds=1):
                raise INVALID_ADMINISTRATOR.error("a TTL ceiling is at least 1 s")
        return replace(wanted, dns_suffixes=tuple(dns_name(name.lstrip(".")) for name in wanted.dns_suffixes))

    def _check_path(self, path: str) -> None:
        try:
            if path != "/":
                SpiffeId.of(self._trust_domain, path)
        except VestibuleError as error:
            raise INVALID_ADMINISTRATOR.error(f"{path[:80]!r} is not a path such as /ns/dev, or /") from error
        if not path:
            raise INVALID_ADMINISTRATOR.error("a path is empty; / is everything")


def _entry_problem(grant: Administrator, entry: Entry, defaults: Defaults) -> str:
    """What of an entry lies outside a grant; empty if nothing does."""
    return (
        _outside("the SPIFFE ID", entry.spiffe_id, grant.paths)
        or _outside("the parent ID", entry.parent_id, grant.parents)
        or next(
            (
                f"the feature {name!r} is not granted"
                for name in _features(entry)
                if name not in grant.features
            ),
            "",
        )
        or _dns_problem(grant, entry.dns_names)
        or _dns_problem(grant, entry.dns_templates)
        or _ttl_problem(
            "x509_svid_ttl", entry.x509_svid_ttl or defaults.x509_svid_ttl, grant.max_x509_svid_ttl
        )
        or _ttl_problem("jwt_svid_ttl", entry.jwt_svid_ttl or defaults.jwt_svid_ttl, grant.max_jwt_svid_ttl)
    )


def _features(entry: Entry) -> list[str]:
    used = {
        "admin": entry.admin,
        "downstream": entry.downstream,
        "federates_with": bool(entry.federates_with),
        "dns_names": bool(entry.dns_names or entry.dns_templates),
        "store_svid": entry.store_svid,
        "templates": entry.is_template,
        "jwt_claims": bool(entry.jwt_claims),
    }
    return [name for name, is_used in used.items() if is_used]


def _within(spiffe_id: SpiffeId, paths: Iterable[str]) -> bool:
    """Whether an ID is one of the paths or below one, segment by segment."""
    return any(
        path == "/" or spiffe_id.path == path or spiffe_id.path.startswith(f"{path}/") for path in paths
    )


def _outside(what: str, spiffe_id: SpiffeId, paths: Sequence[str]) -> str:
    if _within(spiffe_id, paths):
        return ""
    return f"{what} {spiffe_id} is not below {' or '.join(paths) or 'any path that was granted'}"


def _dns_problem(grant: Administrator, names: Iterable[str]) -> str:
    for name in names:
        if "dns_names" not in grant.features:
            return "the feature 'dns_names' is not granted"
        # A wildcard of the suffix itself (*.example.org) lies below it; the suffix is compared label by label.
        bare = name.lower()
        if grant.dns_suffixes and not any(
            bare == suffix or bare.endswith(f".{suffix}") for suffix in grant.dns_suffixes
        ):
            return f"the DNS name {name} does not end with {' or '.join(grant.dns_suffixes)}"
    return ""


def _ttl_problem(what: str, ttl: timedelta, ceiling: timedelta | None) -> str:
    if ceiling is None or ttl <= ceiling:
        return ""
    return (
        f"{what} {ttl.total_seconds():g} s is more than the {ceiling.total_seconds():g} s that were granted"
    )


def _event(actor: str, action: str, grant: Administrator) -> AuditEvent:
    details: dict[str, Detail] = {"id": grant.id, "powers": list(grant.powers)}
    for name in ("paths", "parents", "features", "dns_suffixes"):
        if found := getattr(grant, name):
            details[name] = list(found)
    for name in ("max_x509_svid_ttl", "max_jwt_svid_ttl"):
        if (ttl := getattr(grant, name)) is not None:
            details[name] = int(ttl.total_seconds())
    if grant.expires_at is not None:
        details["expires_at"] = grant.expires_at.isoformat()
    return AuditEvent(actor=actor, action=action, subject=str(grant.spiffe_id), details=details)
