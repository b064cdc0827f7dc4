"""Cases that a policy has to pass, written beside it in ``policy-tests/*.yaml``: calls, and what should become of them.

They are no part of the intent: what they say changes nothing that runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from vestibule.errors import VestibuleError, Where
from vestibule.intent import codes, words
from vestibule.intent.case_keys import (
    CASE_AT,
    CASE_BODY,
    CASE_FROM,
    CASE_HEADERS,
    CASE_HOST,
    CASE_MCP,
    CASE_METHOD,
    CASE_NAME,
    CASE_PATH,
    CASE_RULE,
    CASE_SCOPES,
    CASE_SHADOW,
    CASE_TO,
    CASE_TOKENS,
    CASES,
    CASES_FILE,
    EXPECT,
    MCP_METHOD,
    MCP_TARGET,
)
from vestibule.intent.documents import read_fields
from vestibule.intent.files import Tree, read_file
from vestibule.intent.model import Intent, Port, Protocol, Service
from vestibule.intent.plaintext import ANYBODY, SHOWN
from vestibule.intent.problems import Findings, Problem
from vestibule.intent.resolving import advice
from vestibule.intent.secret_groups import VERBS
from vestibule.intent.secret_paths import SecretPath, logical
from vestibule.intent.secret_policies import NAME as NAME_OF_SECRETS
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.token_cases import token_calls
from vestibule.intent.token_policies import NAME as NAME_OF_TOKENS
from vestibule.policy import Call, McpCall
from vestibule.spiffe import SpiffeId

FOLDER: Final = "policy-tests"
OF_SECRET: Final = "secret:"  # noqa: S105 - begins a target that is a secret and no service
OF_TOKEN: Final = "token:"  # noqa: S105 - begins a target that is an audience


class Kind(Enum):
    """What is asked for."""

    CALL = "call"
    SECRET = "secret"  # noqa: S105 - a kind
    TOKEN = "token"  # noqa: S105 - a kind

    @classmethod
    def of(cls, target: str) -> Kind:
        """By how a target begins."""
        if target.startswith(OF_SECRET):
            return cls.SECRET
        return cls.TOKEN if target.startswith(OF_TOKEN) else cls.CALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call to a port of a service, and what is expected.  ``rule``: None if any will do, ``""`` for no rule.

    ``dated``: it says when the call is made.  Where it is a secret or a token that is asked for, service and port stand
    for the secret manager or the token service; of a token there is a question for no scope, and one for each.
    """

    name: str
    service: Service
    port: Port
    calls: tuple[Call, ...]
    allowed: bool
    rule: str | None = None
    shadow: bool | None = None
    dated: bool = False
    kind: Kind = Kind.CALL
    where: Where | None = field(default=None, compare=False)

    @property
    def call(self) -> Call:
        """The one call; of a token, the question for no scope."""
        return self.calls[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """All cases, and what is wrong with the files."""

    cases: tuple[Case, ...] = ()
    problems: tuple[Problem, ...] = ()


def load_cases(tree: Tree, intent: Intent, now: datetime) -> Cases:
    """The cases beside an intent; none where there is no such folder.  ``now`` is for those that do not say when."""
    cases: list[Case] = []
    problems: list[Problem] = []
    for name in _files(tree):
        content, found = read_file(tree, name)
        problems += [found] if found else []
        findings = Findings(name)
        fields = read_fields(CASES_FILE, content, findings)
        listed = fields.get(CASES) if fields else None
        read = [_case(item, intent, now, findings) for item in (listed.value if listed else ())]
        cases += [each for each in read if each is not None]
        problems += findings.problems()
    return Cases(cases=tuple(cases), problems=tuple(problems))


def _files(tree: Tree) -> list[str]:
    try:
        listed = tree.listing(FOLDER)
    except OSError:
        return []
    names = sorted(each.name for each in listed if not each.is_dir and each.name.endswith(".yaml"))
    return [f"{FOLDER}/{name}" for name in names if not name.startswith(".")]


def _case(item: At[Fields], intent: Intent, now: datetime, findings: Findings) -> Case | None:
    fields, before = item.value, findings.count
    target = fields.get(CASE_TO)
    kind = Kind.of(target.value) if target else Kind.CALL
    found = _target(target, intent, findings) if target else None
    caller = fields.get(CASE_FROM)
    spiffe_id = _caller(caller, intent, findings) if caller else None
    name, expect = fields.get(CASE_NAME), fields.get(EXPECT)
    rule = fields.get(CASE_RULE)
    if kind is Kind.SECRET:
        _check_verb(fields, findings)
    if kind is not Kind.TOKEN and (place := fields.place(CASE_SCOPES)):
        findings.add(codes.NO_EFFECT, "only tokens are asked for with scopes", place)
    if rule and found:
        _check_rule(rule, intent, findings)
    calls = _calls(kind, item, spiffe_id, found, intent, now, findings) if spiffe_id and found else ()
    if findings.count > before or not (calls and found and name and expect):
        return None
    service, port = found
    return Case(
        name=name.value,
        service=service,
        port=port,
        calls=calls,
        kind=kind,
        allowed=expect.value,
        rule=None if rule is None else "" if rule.value == "none" else rule.value,
        shadow=fields.value(CASE_SHADOW, None),
        dated=fields.place(CASE_AT) is not None,
        where=findings.where(item.at),
    )


def _calls(
    kind: Kind,
    item: At[Fields],
    spiffe_id: SpiffeId,
    target: tuple[Service, Port],
    intent: Intent,
    now: datetime,
    findings: Findings,
) -> tuple[Call, ...]:
    match kind:
        case Kind.SECRET:
            return (_secret_call(item.value, spiffe_id, now),)
        case Kind.TOKEN:
            audience = item.value.value(CASE_TO, "").removeprefix(OF_TOKEN)
            return token_calls(item, audience, spiffe_id, intent, now, findings)
        case Kind.CALL:
            return (_call(item.value, spiffe_id, *target, now),)


def _call(fields: Fields, caller: SpiffeId, service: Service, port: Port, now: datetime) -> Call:
    mcp = fields.get(CASE_MCP)
    http = port.protocol.is_http
    return Call(
        caller=caller,
        port=port.name,
        method=fields.value(CASE_METHOD, "POST" if mcp else "GET") if http else None,
        path=fields.value(CASE_PATH, "/") if http else None,
        host=fields.value(CASE_HOST, service.name) if http else "",
        headers=MappingProxyType(_table(fields, CASE_HEADERS)),
        time=fields.value(CASE_AT, now),
        tokens=MappingProxyType(_table(fields, CASE_TOKENS)),
        mcp=_mcp(mcp.value) if mcp else None,
        body=fields.value(CASE_BODY, None),
    )


def _check_verb(fields: Fields, findings: Findings) -> None:
    said = fields.get(CASE_METHOD)
    if said and said.value not in VERBS:
        message = f"{words.shown(said.value)} is nothing that can be done with a secret"
        findings.add(codes.MALFORMED_VALUE, message, said.at, advice=advice(said.value, VERBS, "verbs"))


def _secret_call(fields: Fields, spiffe_id: SpiffeId, now: datetime) -> Call:
    path = logical(fields.value(CASE_TO, "").removeprefix(OF_SECRET))
    verb = fields.value(CASE_METHOD, VERBS[0])
    return Call(caller=spiffe_id, port="", method=verb, path=f"/{path}", time=fields.value(CASE_AT, now))


def _platform(name: str, intent: Intent) -> tuple[Service, Port]:
    """What stands for a service of the platform."""
    spiffe_id = SpiffeId.of(intent.mesh.trust_domain, f"/vestibule/{name}")
    return Service(name=name, spiffe_id=spiffe_id), Port(name="", protocol=Protocol.HTTP)


def _mcp(fields: Fields) -> McpCall:
    return McpCall(method=fields.value(MCP_METHOD, None), target=fields.value(MCP_TARGET, None))


def _table(fields: Fields, key: Key[Any]) -> dict[str, Any]:
    found = fields.get(key)
    return {name: value.value for name, (_, value) in found.value.items() if value} if found else {}


def _target(to: At[str], intent: Intent, findings: Findings) -> tuple[Service, Port] | None:
    try:
        match Kind.of(to.value):
            case Kind.SECRET:
                SecretPath.parse(logical(to.value.removeprefix(OF_SECRET)))
                return _platform(NAME_OF_SECRETS, intent)
            case Kind.TOKEN:
                return _platform(NAME_OF_TOKENS, intent)
            case Kind.CALL:
                return target_of(to.value, intent)
    except VestibuleError as error:
        findings.add_error(error, to.at)
        return None


def _caller(caller: At[str], intent: Intent, findings: Findings) -> SpiffeId | None:
    try:
        return caller_of(caller.value, intent)
    except VestibuleError as error:
        findings.add_error(error, caller.at)
        return None


def _check_rule(rule: At[str], intent: Intent, findings: Findings) -> None:
    known = {each.name for each in intent.rules}
    if rule.value != "none" and rule.value not in known:
        message = f"there is no rule {rule.value!r}"
        findings.add(codes.UNKNOWN_NAME, message, rule.at, advice=advice(rule.value, known, "rules"))


def target_of(text: str, intent: Intent) -> tuple[Service, Port]:
    """``payments`` where it has one port, else ``payments/grpc``.  Raises: VST0040."""
    name, _, port_name = text.partition("/")
    service = intent.services.get(name)
    if service is None:
        fix = advice(name, intent.services, "services")
        raise codes.UNKNOWN_NAME.error(f"there is no service {name!r}", advice=fix)
    if port_name:
        if port_name not in service.ports:
            fix = advice(port_name, service.ports, "ports")
            raise codes.UNKNOWN_NAME.error(f"{name} has no port {port_name!r}", advice=fix)
        return service, service.ports[port_name]
    if len(service.ports) != 1:
        ports = ", ".join(f"{name}/{each}" for each in sorted(service.ports)) or "none"
        raise codes.UNKNOWN_NAME.error(
            f"{name} has {len(service.ports)} ports", advice=f"Say which one is meant: {ports}."
        )
    return service, next(iter(service.ports.values()))


def caller_of(text: str, intent: Intent) -> SpiffeId:
    """A service's or gateway's identity by its name, a SPIFFE ID, or ``plaintext``.  Raises: VST0040, VST1400."""
    if text in (SHOWN, "plaintext"):
        return ANYBODY
    if "://" in text:
        return SpiffeId.parse(text)
    known = intent.identities
    if text not in known:
        fix = advice(text, known, "services")
        raise codes.UNKNOWN_NAME.error(f"there is no service {text!r}", advice=fix)
    return known[text]
