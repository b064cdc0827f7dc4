"""Envoy evaluates conditions as the engine does: what they are, what is an error, and what that means to a denial."""

from __future__ import annotations

import http.client
import random
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from tests.conditions import some_conditions
from tests.e2e.static_envoy import StaticEnvoy, as_json
from tests.ports import free_port

from vestibule.envoy import trees
from vestibule.envoy.conditions import JWT_METADATA, MCP_METADATA, predicate
from vestibule.errors import VestibuleError
from vestibule.policy import Call, Condition, ConditionError, McpCall, PortPolicy, fold
from vestibule.policy.values import values_of
from vestibule.spiffe import SpiffeId

TYPES: Final = "type.googleapis.com/envoy.extensions.filters"
ISSUER: Final = "internal"
CALLER: Final = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
FOLDED: Final = {
    "service.name": "payments",
    "service.labels": {"tier": "GET"},
    "environment": "prod",
    "caller.trust_domain": "example.org",
    "caller.labels": {"team": "pay"},
}
POLICY: Final = PortPolicy(service="payments", port="http")

TOKENS: Final[Mapping[str, dict[str, Any] | None]] = {
    "usual": {
        "iss": "https://tokens.example.org",
        "sub": "joe",
        "client_id": "spiffe://example.org/ns/prod/sa/web",
        "aud": ["payments", "ledger"],
        "scope": "charge:write charge:read",
        "dept": "fin",
        "level": 3,
        "ratio": 0.5,
        "admin": True,
        "nothing": None,
        "groups": ["a", "b", 7],
        "deep": {"er": {"x": "y"}},
    },
    "odd": {
        "iss": "x",
        "sub": 5,
        "client_id": None,
        "aud": "payments",
        "scope": 7,
        "dept": ["fin"],
        "level": "3",
    },
    "bare": {"iss": "", "aud": ["ledger"], "scope": "charge:writer xcharge:write", "admin": "true", "ä": "ö"},
    "none": None,
}
MESSAGES: Final = {
    "usual": McpCall(method="tools/call", target="read_file"),
    "odd": McpCall(method="resources/read", target="file:///docs/ä"),
    "bare": McpCall(method=None),
    "none": None,
}


@dataclass(frozen=True)
class Request:
    method: str = "GET"
    path: str = "/v1/charges?x=1"
    host: str = "payments:8080"
    headers: tuple[tuple[str, bytes], ...] = ()

    def call(self, listener: str) -> Call:
        headers: dict[str, str] = {}
        for name, value in self.headers:
            text = value.decode("utf-8", "surrogateescape")
            headers[name.lower()] = f"{headers[name.lower()]},{text}" if name.lower() in headers else text
        claims = TOKENS[listener]
        return Call(
            caller=CALLER,
            port="http",
            method=self.method,
            path=self.path,
            host=self.host,
            headers=headers,
            time=datetime.now(UTC),
            tokens={} if claims is None else {ISSUER: claims},
            mcp=MESSAGES[listener],
        )


REQUESTS: Final = (
    Request(),
    Request("POST", "/v1/refunds/7", headers=(("X-Tenant", b"t1"), ("x-level", b"5"))),
    Request("DELETE", "/", "x", (("x-tenant", b"t1"), ("x-tenant", b"t2"))),
    Request("GET", "/a", headers=(("x-tenant", b""), ("x-level", b"abc"))),
    Request("GET", "/a?", headers=(("x-tenant", "tä€😀".encode()),)),
    Request("GET", "/a/%20b", headers=(("x-tenant", b"t1\xff"), ("x-level", b"12"))),
    Request("GET", "/a", headers=(("x-tenant", b"\xc3"), ("x-tenant", b"\xa4"))),
)
# As deep as may be, with what takes most levels in Envoy's words at the bottom.
DEEP: Final = "{'a': " * 8 + "[request.headers['x-tenant'].matches('^t')]" + "}.a" * 8 + "[0]"
WRITTEN: Final = (
    "true || 1 / 0 == 1",
    DEEP,
    "request.headers['x-tenant'] == 't1'",
    "request.headers['x-tenant'] != 't1'",
    "request.headers['x-tenant'] == 't1,t2'",
    "'x-tenant' in request.headers && request.headers['x-tenant'].startsWith('t')",
    "has(request.headers.x_none) || request.method == 'POST'",
    "!('x-tenant' in request.headers)",
    "request.headers['x-tenant'] == ''",
    "size(request.headers['x-tenant']) == 4",
    "request.headers['x-tenant'].matches('^t.+$')",
    "int(request.headers['x-level']) > 3",
    "request.path == '/v1/charges'",
    "request.path.matches('^/v1/[a-z]+(/[0-9]+)?$')",
    "request.host == 'payments:8080' && request.method in ['GET', 'PUT']",
    "request.time > timestamp('2020-01-01T00:00:00Z')",
    "request.time - duration('24h') < request.time && request.time.getFullYear('UTC') > 2000",
    "timestamp('2026-03-29T00:59:59Z').getHours('Europe/Paris') == 1 && request.method == 'GET'",
    "timestamp('2026-03-29T01:00:00Z').getHours('Europe/Paris') == 3 && request.method == 'GET'",
    "timestamp('2026-11-22T23:30:00Z').getDayOfWeek('Asia/Tokyo') == 1 && request.method == 'GET'",
    "timestamp('2026-11-22T23:30:00Z').getDayOfWeek('-10:00') == 0 && request.method == 'GET'",
    "timestamp('2026-01-01T00:10:00Z').getMinutes('Asia/Kolkata') == 40 && request.method == 'GET'",
    "request.time.getDayOfWeek('Europe/Paris') in [0, 1, 2, 3, 4, 5, 6]",
    "token.issuer == 'https://tokens.example.org'",
    "token.subject == 'joe' || token.client_id == 'x'",
    "token.subject != 'joe'",
    "'charge:write' in token.scopes",
    "!('charge:write' in token.scopes)",
    "'payments' in token.audiences",
    "!('payments' in token.audiences)",
    "request.method in token.audiences",
    "token.claims.dept == 'fin'",
    "token.claims.dept != 'fin'",
    "token.claims.level >= 3",
    "token.claims.level == 3 && token.claims.level in [1, 3]",
    "token.claims.level + 1.0 == 4.0",
    "token.claims.level + 1 == 4",
    "token.claims.admin",
    "!token.claims.admin",
    "token.claims.nothing == null",
    "has(token.claims.dept) && 'sub' in token.claims",
    "'a' in token.claims.groups && 7 in token.claims.groups",
    "token.claims.deep.er.x == 'y'",
    "token.claims['ä'] == 'ö'",
    "token.claims.ratio < 1 && token.claims.ratio * 2.0 == 1.0",
    "mcp.method == 'tools/call' && mcp.target.startsWith('read_')",
    "mcp.method == ''",
    "mcp.target == 'file:///docs/ä'",
    "{'a': request.method}.a == 'GET'",
    "[request.method, 'x'][0] == 'GET' && [1][5] == 1",
    "request.method == 'GET' ? 1 / 0 == 1 : true",
    "token.claims.missing == 1 || request.method == 'GET'",
    "request.method == 'GET' && token.claims.missing == 1",
)


def _metadata(listener: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if (claims := TOKENS[listener]) is not None:
        found.append({"metadata_namespace": JWT_METADATA, "value": {ISSUER: claims}})
    message = MESSAGES[listener]
    if message is not None:
        value: dict[str, Any] = {"method": message.method or "__jsonrpc_response"}
        if message.target is not None:
            value["params"] = {"name" if message.method == "tools/call" else "uri": message.target}
        found.append({"metadata_namespace": MCP_METADATA, "value": value})
    return found


def _listener(name: str, port: int, rbac: rbac_pb2.RBAC) -> dict[str, Any]:
    filters = [
        {
            "name": "metadata",
            "typed_config": {"@type": f"{TYPES}.http.set_metadata.v3.Config", "metadata": _metadata(name)},
        },
        {"name": "rbac", "typed_config": {"@type": f"{TYPES}.http.rbac.v3.RBAC", **as_json(rbac)}},
        {"name": "router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}},
    ]
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@dataclass
class Judges:
    """Listeners that judge by the condition whose number a request says."""

    conditions: list[Condition]
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in TOKENS})

    def bootstrap(self) -> dict[str, Any]:
        found = {
            f"{kind}{number}": trees.first_of(
                [(predicate(each, denies=kind == "d", issuer=ISSUER), trees.action("matches"))], None
            )
            for number, each in enumerate(self.conditions)
            for kind in "ad"
        }
        root = trees.exact_map(trees.header("x-which"), {k: v for k, v in found.items() if v}, None)
        assert root is not None
        rbac = rbac_pb2.RBAC()
        rbac.matcher.MergeFromString(trees.matcher_of(root))
        listeners = [_listener(name, port, rbac) for name, port in self.ports.items()]
        return {"static_resources": {"listeners": listeners}}

    def matched(self, listener: str, request: Request) -> Iterator[tuple[str, bool]]:
        """What each condition came to, as permission (``a``) and as denial (``d``)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=60)
        for number in range(len(self.conditions)):
            for kind in "ad":
                connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
                connection.putheader("Host", request.host)
                connection.putheader("x-which", f"{kind}{number}")
                for name, value in request.headers:
                    connection.putheader(name, value)
                connection.endheaders()
                response = connection.getresponse()
                response.read()
                assert response.status in (200, 403), response.status
                yield f"{kind}{number}", response.status == 200
        connection.close()


def _expected(condition: Condition, call: Call) -> tuple[bool, bool]:
    try:
        held = condition.evaluate(values_of(condition.uses, POLICY, call, call.tokens.get(ISSUER)))
    except ConditionError:
        return False, True
    return held, held


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judges]:
    conditions = [Condition.parse(each) for each in WRITTEN]
    for each in some_conditions(150, random.Random(5)):
        left = fold(each, FOLDED)
        if isinstance(left, Condition):
            conditions.append(left)
    judges = Judges(conditions)
    with StaticEnvoy(tmp_path_factory.mktemp("envoy"), judges.bootstrap(), list(judges.ports.values())):
        yield judges


@pytest.mark.parametrize("listener", TOKENS)
def test_a_condition_is_the_same_to_envoy_and_to_the_engine(judges: Judges, listener: str) -> None:
    for request in REQUESTS:
        call = request.call(listener)
        expected: dict[str, bool] = {}
        for number, condition in enumerate(judges.conditions):
            expected[f"a{number}"], expected[f"d{number}"] = _expected(condition, call)
        found = dict(judges.matched(listener, request))
        wrong = [
            (key, judges.conditions[int(key[1:])].source, value)
            for key, value in found.items()
            if expected.get(key, value) is not value
        ]
        assert not wrong, (request, [each[1] for each in wrong], wrong)


def _some_regexes(count: int, chance: random.Random) -> Iterator[str]:
    atoms: tuple[str, ...] = (
        "a",
        "k",
        "é",
        "€",
        ".",
        "[a-z]",
        "[^/]",
        "[é-ü]",
        r"\d",
        r"\w",
        r"\S",
        "(ab)",
        "(?:x|y|)",
        r"[\w.-]",
    )
    atoms += (
        r"\.",
        "^",
        "$",
        r"\b",
        "[^a-z0-9_]",
        "[[:alpha:]]",
        "(?i)",
        "(?i:sk)",
        r"\x{e9}",
        "[aceg]",
        "(?s:.)",
    )
    marks = ("", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,4}", "{2,}", "*?", "|")
    while count:
        regex = "".join(
            chance.choice(atoms) + chance.choice(marks) for _ in range(chance.randint(1, 24))
        ).rstrip("|")
        if _condition(regex) is not None:
            count -= 1
            yield regex


def _condition(regex: str) -> Condition | None:
    written = regex.replace("\\", "\\\\").replace("'", "\\'")
    try:
        return Condition.parse(f"!request.host.matches('{written}')")
    except VestibuleError:
        return None


def test_every_regular_expression_that_is_let_through_can_be_loaded(tmp_path: Path) -> None:
    chance = random.Random(7)
    fixed = ["a" * 96, "[a-z0-9]" * 40, "." * 9, "[^a]" * 8, "(a)" * 32, string.ascii_lowercase * 3]
    conditions = [_condition(each) for each in (*fixed, *_some_regexes(400, chance))]
    judges = Judges([each for each in conditions if each is not None], {"none": free_port()})
    with StaticEnvoy(tmp_path, judges.bootstrap(), list(judges.ports.values())):
        pass
