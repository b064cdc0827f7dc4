"""The mesh: its name, what holds for all of its services, its roles, whose tokens count."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vestibule.errors import Where
from vestibule.intent import bounds_keys, codes, language, traffic_keys
from vestibule.intent.addresses import OF_SVIDS, OF_TOKENS
from vestibule.intent.files import KEYS
from vestibule.intent.key_sets import why_not
from vestibule.intent.model import (
    DEFAULT_TEMPLATE,
    DEFAULT_TIMEOUT,
    Decide,
    Defaults,
    Issuer,
    IssuerKind,
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


def kinds_of_issuers(fields: Fields | None) -> Mapping[str, IssuerKind] | None:
    """What rules may call them, and of which kind they are; None if that cannot be said."""
    table = fields.get(language.ISSUERS) if fields else None
    if fields is None or (table is None and fields.place(language.ISSUERS)):
        return None
    records = table.value.items() if table else ()
    return {
        name: _kind(record.value.value(language.KEYS, "") if record else "") for name, (_, record) in records
    }


def _kind(keys: str) -> IssuerKind:
    if keys in (OF_SVIDS, OF_TOKENS):
        return IssuerKind(keys)
    return IssuerKind.URL if "://" in keys else IssuerKind.FILE


def build_issuers(fields: Fields | None, files: Mapping[str, bytes], findings: Findings) -> dict[str, Issuer]:
    """Whose tokens count; those in error are left out."""
    table = fields.get(language.ISSUERS) if fields else None
    issuers: dict[str, Issuer] = {}
    said: dict[str, str] = {}
    for name, (_, record) in table.value.items() if table else ():
        if record is None:
            continue
        iss = record.value.get(language.ISS)
        outside = _kind(record.value.value(language.KEYS, "")).is_outside
        if iss and outside and said.setdefault(iss.value, name) != name:
            message = f"the tokens of {iss.value} are those of {said[iss.value]!r} already"
            findings.add(codes.DUPLICATE_ITEM, message, iss.at)
        if (issuer := _issuer(name, record, files, findings)) is not None:
            issuers[name] = issuer
    _refuse_second_service(table.value if table else {}, findings)
    return issuers


def _issuer(name: str, record: At[Fields], files: Mapping[str, bytes], findings: Findings) -> Issuer | None:
    iss, keys = record.value.get(language.ISS), record.value.get(language.KEYS)
    if keys is None:
        return None
    kind = _kind(keys.value)
    if kind is IssuerKind.TOKENS and iss:
        message = f"the issuer {name!r} is the mesh's own token service, whose address the server knows"
        findings.add(codes.EXCLUSIVE_KEYS, message, iss.at, advice="Remove issuer:.")
    if kind.is_outside and iss is None:
        if not record.value.place(language.ISS):
            findings.add(codes.MISSING_KEY, f"the issuer {name!r} lacks 'issuer'", record.at)
        return None
    content = _key_set(keys, files, findings) if kind is IssuerKind.FILE else ""
    if content is None:
        return None
    return Issuer(
        name=name,
        issuer=iss.value if iss else "",
        keys=content,
        longest=record.value.value(language.LONGEST, None),
        kind=kind,
        url=keys.value if kind is IssuerKind.URL else "",
        audiences=_traded(record.value, kind, findings),
    )


def _traded(fields: Fields, kind: IssuerKind, findings: Findings) -> tuple[str, ...]:
    said = fields.get(language.TRADED)
    if said and not kind.is_outside:
        message = "only tokens of others are traded, so that whom these are for says nothing"
        findings.add(codes.NO_EFFECT, message, said.at)
    return tuple(each.value for each in said.value) if said else ()


def _refuse_second_service(table: Mapping[str, tuple[object, At[Fields] | None]], findings: Findings) -> None:
    """There is one token service: of two names for it, a token could have only one."""
    first = ""
    for name, (_, record) in table.items():
        keys = record.value.get(language.KEYS) if record else None
        if keys is not None and keys.value == OF_TOKENS:
            if first:
                message = f"the mesh's own token service is {first!r} already"
                findings.add(codes.DUPLICATE_ITEM, message, keys.at)
            first = first or name


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
