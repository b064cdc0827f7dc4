"""Names, and what they refer to: services with their identities, roles with their members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from vestibule.errors import VestibuleError
from vestibule.intent import codes, language, template
from vestibule.intent.model import DEFAULT_TEMPLATE, IssuerKind, Port
from vestibule.intent.nodes import Position
from vestibule.intent.problems import Findings, nearest
from vestibule.intent.shapes import At, Fields
from vestibule.intent.words import AnyCaller, Caller, RoleCaller, ServiceCaller
from vestibule.policy import IdentityMatch
from vestibule.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What names may refer to.  A None stands for something that is declared and itself in error.

    ``issuers`` are the names of those whose tokens count, and their kinds; None: they are in error.
    """

    services: Mapping[str, SpiffeId | None]
    roles: Mapping[str, tuple[IdentityMatch, ...] | None]
    trust_domain: TrustDomain | None
    gateways: Mapping[str, SpiffeId | None] = field(default_factory=lambda: MappingProxyType({}))
    roles_known: bool = True
    issuers: Mapping[str, IssuerKind] | None = field(default_factory=lambda: MappingProxyType({}))
    ports: Mapping[str, Mapping[str, Port | None]] = field(default_factory=lambda: MappingProxyType({}))


def identities(
    mesh: Fields | None, declared: Mapping[str, tuple[Position, Findings]]
) -> dict[str, SpiffeId | None]:
    """Give everything that is declared its identity."""
    return {name: _identity(mesh, name, *place) for name, place in declared.items()}


def trust_domain(mesh: Fields | None) -> TrustDomain | None:
    """The mesh's trust domain, if it says one."""
    return mesh.value(language.TRUST_DOMAIN, None) if mesh else None


def _identity(mesh: Fields | None, name: str, at: Position, findings: Findings) -> SpiffeId | None:
    if mesh is None:
        return None
    domain, environment = mesh.get(language.TRUST_DOMAIN), mesh.get(language.ENVIRONMENT)
    mesh_name, text = mesh.get(language.MESH_NAME), mesh.get(language.IDENTITY)
    if not (domain and environment and mesh_name) or (text is None and mesh.place(language.IDENTITY)):
        return None
    values = {"service": name, "environment": environment.value, "mesh": mesh_name.value}
    try:
        return template.render(text.value if text else DEFAULT_TEMPLATE, domain.value, values)
    except VestibuleError as error:
        findings.add_error(error, at)
        return None


def resolve_callers(
    listed: Iterable[At[Caller]], names: Names, findings: Findings
) -> tuple[IdentityMatch, ...]:
    """Whom the callers of a rule or role stand for; what is unknown or out of reach is noted."""
    return longest(match for caller in listed for match in matches_of(caller, names, findings))


def longest(matches: Iterable[IdentityMatch]) -> tuple[IdentityMatch, ...]:
    """Each identity once, with the membership that lasts longest."""
    kept: dict[IdentityMatch, IdentityMatch] = {}
    for match in matches:
        plain = replace(match, until=None) if match.until else match
        other = kept.get(plain)
        if other is None or (other.until is not None and not ends_by(match.until, other.until)):
            kept[plain] = match
    return tuple(kept.values())


def ends_by(until: datetime | None, other: datetime) -> bool:
    """Whether a membership has ended by then."""
    return until is not None and until <= other


def matches_of(caller: At[Caller], names: Names, findings: Findings) -> tuple[IdentityMatch, ...]:
    """Whom one of them stands for; nobody in particular for ``anyone``."""
    found = caller.value
    if isinstance(found, AnyCaller):
        return ()
    if isinstance(found, ServiceCaller):
        callers = {**names.gateways, **names.services}
        if found.name in callers:
            spiffe_id = callers[found.name]
            return (IdentityMatch(id=spiffe_id),) if spiffe_id else ()
        message = f"there is no service {found.name!r}"
        fix = advice(found.name, callers, "services")
        findings.add(codes.UNKNOWN_NAME, message, caller.at, advice=fix)
        return ()
    if isinstance(found, RoleCaller):
        if found.name in names.roles or not names.roles_known:
            return names.roles.get(found.name) or ()
        message = f"there is no role {found.name!r} in mesh.yaml"
        fix = advice(found.name, names.roles, "roles")
        findings.add(codes.UNKNOWN_NAME, message, caller.at, advice=fix)
        return ()
    if why := out_of_reach(found, names.trust_domain):
        findings.add(codes.CALLER_OUT_OF_REACH, f"{found} {why}", caller.at)
        return ()
    return (found,)


def out_of_reach(match: IdentityMatch, trust_domain: TrustDomain | None) -> str | None:
    if trust_domain and match.id.trust_domain != trust_domain:
        return f"is not in the trust domain {trust_domain}, and others are not supported by this version"
    if not match.id.path:
        return "is a whole trust domain" if match.below else "is no workload, only a trust domain"
    if match.id.is_reserved:
        return "belongs to servers and agents, which call no services"
    return None


def advice(name: str, known: Iterable[str], what: str) -> str:
    """What to do about a name that is not known."""
    known = list(known)
    if close := nearest(name, known):
        return f"Did you mean {close!r}?"
    if not known:
        return f"There are no {what}; declare it first."
    shown = ", ".join(sorted(known)[:10])
    return f"Known {what}: {shown}{', …' if len(known) > 10 else ''}."
