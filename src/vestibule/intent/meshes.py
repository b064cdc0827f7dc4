"""The mesh: its name, what holds for all of its services, its roles, whose tokens count."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vestibule.errors import Where
from vestibule.intent import bounds_keys, codes, language, traffic_keys
from vestibule.intent.addresses import OWN_KEYS
from vestibule.intent.files import KEYS
from vestibule.intent.key_sets import why_not
from vestibule.intent.model import (
    DEFAULT_TEMPLATE,
    DEFAULT_TIMEOUT,
    Decide,
    Defaults,
    Issuer,
    Mesh,
    Rollout,
)
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names, advice
from vestibule.intent.retries import check_tries, warn_of_repeats
from vestibule.intent.shapes import At, Fields


def build_mesh(
    fields: Fields | None,
    names: Names,
    defaults: Defaults,
    issuers: Mapping[str, Issuer],
    unused: frozenset[str],
    findings: Findings,
) -> Mesh | None:
    """The mesh, if all that it must have is there."""
    if fields is None:
        return None
    name, environment = fields.get(language.MESH_NAME), fields.get(language.ENVIRONMENT)
    if not (name and environment and names.trust_domain):
        return None
    return Mesh(
        name=name.value,
        trust_domain=names.trust_domain,
        environment=environment.value,
        identity_template=fields.value(language.IDENTITY, DEFAULT_TEMPLATE),
        defaults=defaults,
        rollout=fields.value(language.ROLLOUT, Rollout()),
        roles=MappingProxyType({role: members or () for role, members in names.roles.items()}),
        issuers=MappingProxyType(dict(issuers)),
        decide=fields.value(language.DECIDE, Decide.LOCAL),
        role_places=MappingProxyType(_places(fields, findings)),
        unused_roles=unused,
    )


def names_of_issuers(fields: Fields | None) -> tuple[str, ...] | None:
    """What rules may call them; None if that cannot be said."""
    table = fields.get(language.ISSUERS) if fields else None
    if fields is None or (table is None and fields.place(language.ISSUERS)):
        return None
    return tuple(table.value) if table else ()


def issuers_of_svids(fields: Fields | None) -> frozenset[str]:
    """Those among them whose tokens are JWT-SVIDs of the mesh."""
    table = fields.get(language.ISSUERS) if fields else None
    records = table.value.items() if table else ()
    return frozenset(
        name for name, (_, record) in records if record and record.value.value(language.KEYS, "") == OWN_KEYS
    )


def build_issuers(fields: Fields | None, files: Mapping[str, bytes], findings: Findings) -> dict[str, Issuer]:
    """Whose tokens count; those in error are left out."""
    table = fields.get(language.ISSUERS) if fields else None
    issuers: dict[str, Issuer] = {}
    said: dict[str, str] = {}
    for name, (_, record) in table.value.items() if table else ():
        issuer = record.value.get(language.ISS) if record else None
        keys = record.value.get(language.KEYS) if record else None
        if record is None or keys is None:
            continue
        longest = record.value.value(language.LONGEST, None)
        if keys.value == OWN_KEYS:
            iss = issuer.value if issuer else ""
            issuers[name] = Issuer(name=name, issuer=iss, keys="", longest=longest, svids=True)
            continue
        if issuer is None:
            if not record.value.place(language.ISS):
                findings.add(codes.MISSING_KEY, f"the issuer {name!r} lacks 'issuer'", record.at)
            continue
        if said.setdefault(issuer.value, name) != name:
            message = f"the tokens of {issuer.value} are those of {said[issuer.value]!r} already"
            findings.add(codes.DUPLICATE_ITEM, message, issuer.at)
        if (found := _key_set(keys, files, findings)) is not None:
            issuers[name] = Issuer(name=name, issuer=issuer.value, keys=found, longest=longest)
    return issuers


def _key_set(name: At[str], files: Mapping[str, bytes], findings: Findings) -> str | None:
    content = files.get(name.value)
    if content is None:
        known = [each for each in files if each.startswith(f"{KEYS}/")]
        fix = advice(name.value, known, "files in keys/")
        findings.add(codes.UNKNOWN_NAME, f"there is no file {name.value!r}", name.at, advice=fix)
        return None
    text = content.decode("utf-8", "replace")
    if why := why_not(text):
        findings.add(codes.NOT_KEYS, f"{name.value!r} {why}", name.at)
        return None
    return text


def _places(fields: Fields, findings: Findings) -> dict[str, Where]:
    table = fields.get(language.ROLES)
    return {role: findings.where(at) for role, (at, _) in table.value.items()} if table else {}


def build_defaults(fields: Fields | None, findings: Findings) -> Defaults:
    """What holds for every service that does not say otherwise."""
    said = fields.get(language.DEFAULTS) if fields else None
    if said is None:
        return Defaults()
    plain = Defaults()
    retry = said.value.get(traffic_keys.RETRY)
    defaults = Defaults(
        timeout=said.value.value(language.TIMEOUT, DEFAULT_TIMEOUT),
        retry=retry.value if retry else plain.retry,
        circuit=said.value.value(bounds_keys.CIRCUIT, plain.circuit),
        outlier=said.value.value(bounds_keys.OUTLIER, None),
    )
    if retry:
        check_tries(retry.value, defaults.timeout, retry.at, findings)
        warn_of_repeats(retry.value, frozenset(), None, retry.at, findings)
    return defaults
