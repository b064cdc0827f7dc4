"""Cases that a policy has to pass, written beside it in ``policy-tests/*.yaml``: calls, and what should become of them.

They are no part of the intent: what they say changes nothing that runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from vestibule.errors import VestibuleError, Where
from vestibule.intent import codes, words
from vestibule.intent.documents import read_fields
from vestibule.intent.files import Tree, read_file
from vestibule.intent.model import Intent, Port, Protocol, Service
from vestibule.intent.plaintext import ANYBODY, SHOWN
from vestibule.intent.problems import Findings, Problem
from vestibule.intent.resolving import advice
from vestibule.intent.secret_groups import VERBS
from vestibule.intent.secret_paths import SecretPath, logical
from vestibule.intent.secret_policies import NAME as NAME_OF_SECRETS
from vestibule.intent.shapes import At, Choice, Fields, Key, Many, Record, Table, Text
from vestibule.intent.terms import INSTANT, LINE, NAME, pattern
from vestibule.policy import Call, McpCall
from vestibule.spiffe import SpiffeId

FOLDER: Final = "policy-tests"
OF_SECRET: Final = "secret:"  # noqa: S105 - begins a target that is a secret and no service

_HEADER_NAME: Final = r"[a-z0-9!#$%&'*+.^_`|~-]{1,200}"


def _header_name(text: str) -> str:
    if re.fullmatch(_HEADER_NAME, text):
        return text
    raise codes.MALFORMED_VALUE.error(f"{words.shown(text)} is not a header name in lower case")


def _request_path(text: str) -> str:
    """Any text that begins with a slash: whether paths that are not normal are refused is worth a case, too."""
    if text.startswith("/"):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{words.shown(text)} is not the path of a request", advice="Write it from its first slash on."
    )


def _claims(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise codes.MALFORMED_VALUE.error(f"the claims are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise codes.MALFORMED_VALUE.error("the claims are no JSON object")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise codes.MALFORMED_VALUE.error(f"the body is not JSON: {error}") from error


_ANY_TEXT: Final = Text(words.anything)
CASE_NAME: Final = Key("name", LINE, "What the case shows, in a few words.", required=True)
CASE_FROM: Final = Key(
    "from", LINE, "Who calls: a service, a gateway, spiffe://…, or plaintext.", required=True
)
CASE_TO: Final = Key(
    "to",
    LINE,
    "What is called: a service, or service/port; or secret:PATH, of which `method` is a verb.",
    required=True,
)
CASE_METHOD: Final = Key("method", Text(words.anything, {"minLength": 1}), "The HTTP method.", default="GET")
CASE_PATH: Final = Key("path", Text(_request_path, pattern("/.*")), "The path, with its query.", default="/")
CASE_HOST: Final = Key("host", LINE, "The host that is asked for.", default="the service's name")
CASE_HEADERS: Final = Key(
    "headers",
    Table(Text(_header_name, pattern(_HEADER_NAME)), _ANY_TEXT, "header names to values"),
    "Further headers, by their names in lower case.",
)
CASE_AT: Final = Key("at", INSTANT, "When the call is made.", default="now")
CASE_TOKENS: Final = Key(
    "tokens",
    Table(NAME, Text(_claims), "issuers to claims, as JSON"),
    "The claims of the verified tokens that it carries, as JSON, by the names of their issuers.",
)
MCP_METHOD: Final = Key("method", LINE, "The JSON-RPC method, such as tools/call.", required=True)
MCP_TARGET: Final = Key("target", LINE, "The tool, resource or prompt.")
CASE_MCP: Final = Key("mcp", Record("an MCP call", (MCP_METHOD, MCP_TARGET)), "What an MCP client asks for.")
CASE_BODY: Final = Key("body", Text(_value), "The request's body, as JSON.")
EXPECT: Final = Key(
    "expect", Choice.of([("allow", True), ("deny", False)]), "What should become of it.", required=True
)
CASE_RULE: Final = Key("rule", LINE, "The rule that should decide, as service/rule-id; none for no rule.")
CASE_SHADOW: Final = Key(
    "shadow",
    Choice.of([("allow", True), ("deny", False)]),
    "What would become of it if rules in shadow mode counted.",
)
CASE_RECORD: Final = Record(
    "a case",
    (
        CASE_NAME,
        CASE_FROM,
        CASE_TO,
        CASE_METHOD,
        CASE_PATH,
        CASE_HOST,
        CASE_HEADERS,
        CASE_AT,
        CASE_TOKENS,
        CASE_MCP,
        CASE_BODY,
        EXPECT,
        CASE_RULE,
        CASE_SHADOW,
    ),
)
CASES: Final = Key(
    "cases", Many(CASE_RECORD, "case", least=1, distinct=False), "Calls and their outcomes.", required=True
)
CASES_FILE: Final = Record("a file of cases", (CASES,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call to a port of a service, and what is expected.  ``rule``: None if any will do, ``""`` for no rule.

    ``dated``: it says when the call is made.  ``secret``: what is asked for is no call but a secret, of the service and
    port that stand for the secret manager.
    """

    name: str
    service: Service
    port: Port
    call: Call
    allowed: bool
    rule: str | None = None
    shadow: bool | None = None
    dated: bool = False
    secret: bool = False
    where: Where | None = field(default=None, compare=False)


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
    secret = target is not None and target.value.startswith(OF_SECRET)
    found = _target(target, intent, findings) if target else None
    caller = fields.get(CASE_FROM)
    spiffe_id = _caller(caller, intent, findings) if caller else None
    name, expect = fields.get(CASE_NAME), fields.get(EXPECT)
    rule = fields.get(CASE_RULE)
    if secret:
        _check_verb(fields, findings)
    if rule and found:
        _check_rule(rule, intent, findings)
    if findings.count > before or not (found and spiffe_id and name and expect):
        return None
    service, port = found
    return Case(
        name=name.value,
        service=service,
        port=port,
        call=_secret_call(fields, spiffe_id, now) if secret else _call(fields, spiffe_id, service, port, now),
        secret=secret,
        allowed=expect.value,
        rule=None if rule is None else "" if rule.value == "none" else rule.value,
        shadow=fields.value(CASE_SHADOW, None),
        dated=fields.place(CASE_AT) is not None,
        where=findings.where(item.at),
    )


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


def _secret_manager(fields_path: str, intent: Intent) -> tuple[Service, Port]:
    """What stands for it.  Raises: VST0080."""
    SecretPath.parse(logical(fields_path))
    spiffe_id = SpiffeId.of(intent.mesh.trust_domain, "/vestibule/secrets")
    return Service(name=NAME_OF_SECRETS, spiffe_id=spiffe_id), Port(name="", protocol=Protocol.HTTP)


def _mcp(fields: Fields) -> McpCall:
    return McpCall(method=fields.value(MCP_METHOD, None), target=fields.value(MCP_TARGET, None))


def _table(fields: Fields, key: Key[Any]) -> dict[str, Any]:
    found = fields.get(key)
    return {name: value.value for name, (_, value) in found.value.items() if value} if found else {}


def _target(to: At[str], intent: Intent, findings: Findings) -> tuple[Service, Port] | None:
    try:
        if to.value.startswith(OF_SECRET):
            return _secret_manager(to.value.removeprefix(OF_SECRET), intent)
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
    known = {each.name for service in intent.services.values() for each in (*service.allow, *service.deny)}
    known |= {each.name for group in intent.secrets.values() for each in (*group.allow, *group.deny)}
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
