"""The way from an entry's parent up to the agents that receive the entry, or to where it breaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from vestibule.identity.entitlement import SERVER_PATH
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId
from vestibule.spiffe.nearness import missing

AGENT_PATH = "/spire/agent/"


@dataclass(frozen=True, slots=True)
class Step:
    """One ID on the way: what has it, by which entry, and whether the way ends here without an agent."""

    spiffe_id: SpiffeId
    what: str
    entry_id: str = ""
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An agent: its own ID, what was attested of its machine, and whether it counts."""

    spiffe_id: SpiffeId
    selectors: frozenset[Selector] = frozenset()
    banned: bool = False


class ParentChains:
    """Walks up among entries; the rules are those of ``entitlement.EntryIndex.authorized``, read backwards."""

    def __init__(self, entries: Iterable[Entry], nodes: Iterable[Node], now: datetime) -> None:
        self._givers: dict[SpiffeId, list[Entry]] = defaultdict(list)
        for entry in entries:
            self._givers[entry.spiffe_id].append(entry)
        self._nodes = {node.spiffe_id: node for node in nodes}
        self._now = now

    def climb(self, parent: SpiffeId, wanted: SpiffeId | None = None) -> tuple[tuple[Step, ...], bool]:
        """The way from a parent ID to the agent ``wanted``, or to any; and whether it gets there."""
        return self._climb(parent, wanted, frozenset())

    def _climb(
        self, spiffe_id: SpiffeId, wanted: SpiffeId | None, seen: frozenset[SpiffeId]
    ) -> tuple[tuple[Step, ...], bool]:
        if spiffe_id.path == SERVER_PATH:
            return (
                Step(spiffe_id, "the server: this entry is a node alias, and gives no workload anything"),
            ), False
        if spiffe_id in seen:
            return (
                Step(spiffe_id, "was passed already: the entries' parents run in a circle", broken=True),
            ), False
        if spiffe_id in self._nodes or spiffe_id.path.startswith(AGENT_PATH):
            return self._agent(spiffe_id, wanted)
        givers = sorted(self._givers.get(spiffe_id, ()), key=lambda each: each.id)
        if not givers:
            told = "is nobody's: no agent has this ID, and no entry gives it"
            return (Step(spiffe_id, told, broken=True),), False
        ways = [self._through(each, wanted, seen | {spiffe_id}) for each in givers]
        return next((way for way in ways if way[1]), ways[0])

    def _through(
        self, giver: Entry, wanted: SpiffeId | None, seen: frozenset[SpiffeId]
    ) -> tuple[tuple[Step, ...], bool]:
        where = giver.spiffe_id
        if giver.expires_at is not None and giver.expires_at <= self._now:
            return (Step(where, "is given by an entry that has expired", giver.id, broken=True),), False
        if giver.is_template or giver.template_id:
            told = "is given by a template, and those lead to no further entries"
            return (Step(where, told, giver.id, broken=True),), False
        if giver.parent_id.path == SERVER_PATH:
            return self._alias(giver, wanted)
        steps, reaches = self._climb(giver.parent_id, wanted, seen)
        return (Step(where, "is given by an entry", giver.id), *steps), reaches

    def _alias(self, alias: Entry, wanted: SpiffeId | None) -> tuple[tuple[Step, ...], bool]:
        where, wants = alias.spiffe_id, ", ".join(sorted(map(str, alias.selectors)))
        told = f"is the alias of nodes with {wants}"
        if wanted is None:
            fitting = [
                each for each in self._nodes.values() if alias.selectors <= each.selectors and not each.banned
            ]
            if not fitting:
                return (Step(where, f"{told}: no attested agent has them", alias.id, broken=True),), False
            first = min(fitting, key=lambda each: each.spiffe_id)
            more = f", and {len(fitting) - 1} more" if len(fitting) > 1 else ""
            return (Step(where, told, alias.id), Step(first.spiffe_id, f"is such an agent{more}")), True
        node = self._nodes.get(wanted)
        if node is None:
            return (Step(where, f"{told}: agent {wanted} is not attested", alias.id, broken=True),), False
        lacking = missing(alias.selectors, node.selectors)
        if lacking:
            told += f": agent {wanted} lacks {_listed(each.expected for each in lacking)}"
            has = [found for each in lacking for found in each.found]
            told += f" (it has {_listed(has)})" if has else ""
            return (Step(where, told, alias.id, broken=True),), False
        return (Step(where, told, alias.id), *self._agent(wanted, wanted)[0]), self._agent(wanted, wanted)[1]

    def _agent(self, spiffe_id: SpiffeId, wanted: SpiffeId | None) -> tuple[tuple[Step, ...], bool]:
        node = self._nodes.get(spiffe_id)
        if node is None:
            return (Step(spiffe_id, "is the ID of an agent that is not attested", broken=True),), False
        if node.banned:
            return (Step(spiffe_id, "is a banned agent", broken=True),), False
        if wanted is not None and spiffe_id != wanted:
            return (Step(spiffe_id, "is another agent", broken=True),), False
        return (Step(spiffe_id, "is an attested agent"),), True


def _listed(selectors: Iterable[Selector] | Collection[Selector]) -> str:
    return ", ".join(map(str, selectors))
