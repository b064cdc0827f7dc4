"""Roles with their members, also those of the roles that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from vestibule.intent import codes, language, rule_keys, service_keys
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names, ends_by, longest, matches_of
from vestibule.intent.shapes import At, Fields
from vestibule.intent.words import Membership, RoleCaller
from vestibule.policy import IdentityMatch

MOST_MEMBERS: Final = 1_000_000
"""Of all roles together, each with the members of those it holds."""

Listed = Mapping[str, At[tuple[At[Membership], ...]] | None]


def resolve_roles(mesh: Fields | None, names: Names, findings: Findings) -> Names:
    """The names with every role resolved."""
    table = mesh.get(language.ROLES) if mesh else None
    listed: Listed = {name: members for name, (_, members) in table.value.items()} if table else {}
    known = mesh is not None and (table is not None or not mesh.place(language.ROLES))
    resolved: dict[str, tuple[IdentityMatch, ...] | None] = dict.fromkeys(listed)
    names = replace(names, roles=MappingProxyType(resolved), roles_known=known)
    total = 0
    for name in _inner_first(listed, findings):
        members = listed[name]
        if members is None:
            continue
        resolved[name] = found = _members(members, names, findings)
        if (total := total + len(found)) > MOST_MEMBERS:
            message = f"all roles together stand for more than {MOST_MEMBERS} members"
            findings.add(
                codes.MALFORMED_VALUE, message, members.at, advice="Let fewer roles hold large ones."
            )
            break
    return replace(names, roles=MappingProxyType(dict(resolved)))


def unused_roles(mesh: Fields | None, files: Iterable[Fields | None]) -> frozenset[str]:
    """The roles that no rule of these files speaks of, nor a role that one speaks of."""
    table = mesh.get(language.ROLES) if mesh else None
    listed: Listed = {name: members for name, (_, members) in table.value.items()} if table else {}
    waiting = [name for fields in files if listed and fields for name in _spoken_of(fields)]
    used: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in listed and name not in used:
            used.add(name)
            waiting += [each.value.who.name for each in _inner(listed, name)]  # type: ignore[union-attr]
    return frozenset(listed) - used


def _spoken_of(fields: Fields) -> Iterator[str]:
    for key in (service_keys.ALLOW, service_keys.DENY):
        rules = fields.get(key)
        for rule in rules.value if rules else ():
            callers = rule.value.get(rule_keys.RULE_FROM)
            for caller in callers.value if callers else ():
                if isinstance(caller.value, RoleCaller):
                    yield caller.value.name


def _members(
    members: At[tuple[At[Membership], ...]], names: Names, findings: Findings
) -> tuple[IdentityMatch, ...]:
    found: list[IdentityMatch] = []
    seen: dict[object, int] = {}
    for member in members.value:
        who = member.value.who
        if seen.setdefault(who, member.at.line) != member.at.line:
            message = f"the same member is listed in line {seen[who]}"
            findings.add(codes.DUPLICATE_ITEM, message, member.at)
        for match in matches_of(At(who, member.at), names, findings):
            until = match.until
            if member.value.until is not None and not ends_by(until, member.value.until):
                until = member.value.until
            found.append(match if until == match.until else replace(match, until=until))
    return longest(found)


def _inner_first(listed: Listed, findings: Findings) -> Iterator[str]:
    """Every role after those that it holds; where roles hold each other, that is noted."""
    done: set[str] = set()
    for start in listed:
        path: dict[str, Iterator[At[Membership]]] = {}
        if start not in done:
            path[start] = _inner(listed, start)
        while path:
            name = next(reversed(path))
            member = next(path[name], None)
            if member is None:
                del path[name]
                done.add(name)
                yield name
                continue
            assert isinstance(member.value.who, RoleCaller)
            held = member.value.who.name
            if held in path:
                around = [*list(path)[list(path).index(held) :], held]
                shown = " → ".join(around if len(around) < 12 else [*around[:10], "…", held])
                findings.add(codes.ROLE_CYCLE, f"the role {held!r} holds itself: {shown}", member.at)
            elif held not in done and held in listed:
                path[held] = _inner(listed, held)


def _inner(listed: Listed, name: str) -> Iterator[At[Membership]]:
    members = listed[name]
    return iter([each for each in members.value if isinstance(each.value.who, RoleCaller)] if members else [])
