"""Whole intents as people might write them: most of them hold, and all of them use the language widely."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Document = dict[str, Any]
SERVICES = ("web", "orders", "payments", "db", "tools")
PROTOCOLS = {"web": "http", "orders": "http2", "payments": "grpc", "db": "tcp", "tools": "mcp"}
VERSIONS = ("v1", "v2", "v3")
KEY_FILE = "keys/internal.json"

durations = st.sampled_from(["10ms", "250ms", "1s", "2s"])
per_cents = st.sampled_from([0.5, 1, 12.25, 50, 100])
paths = st.sampled_from(["/", "/a", "/a/**", "/a/{id}/b", "/b/{x}/**", "/**", "/a/"])
plain_paths = st.sampled_from(["/", "/c", "/c/", "/d/e"])
instants = st.sampled_from(["2020-01-01T00:00:00Z", "2099-01-01T00:00:00+02:00"])
callers = st.lists(
    st.sampled_from([*SERVICES, "edge", "role:staff", "spiffe://example.org/ns/x/**"]),
    min_size=1,
    max_size=3,
    unique=True,
)
comparisons = st.one_of(
    st.fixed_dictionaries({"equals": st.sampled_from(["", "1", "a b"])}),
    st.fixed_dictionaries({"prefix": st.sampled_from(["a", "ab"])}),
    st.fixed_dictionaries({"present": st.booleans()}),
)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    """A mapping with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


def subset(values: tuple[Any, ...], least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=len(values), unique=True)


splits = st.sampled_from([{"v1": 100}, {"v1": 90, "v2": 10}, {"v1": 0, "v2": 50, "v3": 50}])
budgets = some(percent=st.sampled_from([0, 20, 100]), least=st.integers(0, 10))
circuits = st.one_of(
    st.fixed_dictionaries({"connections": st.integers(1, 1000)}, optional={"pending": st.integers(1, 50)}),
    st.fixed_dictionaries({"retry_budget": budgets}, optional={"requests": st.integers(1, 50)}),
)
outliers = some(
    consecutive=st.integers(1, 10),
    interval=durations,
    eject_for=durations,
    most=st.sampled_from(["1%", "100%"]),
)
rewrites = st.one_of(
    st.fixed_dictionaries({"path": plain_paths}, optional={"host": st.just("a.example.com")}),
    st.fixed_dictionaries({"host": st.sampled_from(["a", "b.example.com:8080"])}),
)
redirects = st.one_of(
    st.fixed_dictionaries({"https": st.just(True)}, optional={"path": plain_paths, "status": st.just(307)}),
    st.fixed_dictionaries(
        {"host": st.just("c.example.com")}, optional={"status": st.sampled_from([301, 308])}
    ),
)
delays = st.just({"for": "10ms", "percent": 5})
aborts = st.sampled_from([{"status": 500, "percent": 0.5}, {"status": 503}])
faults = st.one_of(
    st.fixed_dictionaries({"until": instants, "delay": delays}, optional={"abort": aborts}),
    st.fixed_dictionaries({"until": instants, "abort": aborts}),
)
localities = st.one_of(
    st.just({"prefer": "any"}),
    st.fixed_dictionaries(
        {"prefer": st.sampled_from(["zone", "region"])}, optional={"failover": subset(("eu-west", "us-east"))}
    ),
)


def retries(protocol: str) -> st.SearchStrategy[Document]:
    words: tuple[Any, ...] = ("connect-failure", "refused-stream", "reset", "5xx", 429, 503)
    words += ("unavailable", "cancelled") if protocol == "grpc" else ()
    return some(attempts=st.integers(2, 3), on=subset(words), per_try=st.just("5ms"), backoff=durations)


def methods(protocol: str) -> st.SearchStrategy[list[str]]:
    return st.just(["POST"]) if protocol == "grpc" else subset(("GET", "HEAD", "POST", "PATCH"))


def matches(protocol: str) -> st.SearchStrategy[Document]:
    return some(
        path=paths,
        methods=methods(protocol),
        headers=st.dictionaries(st.sampled_from(["x-a", "x-b"]), comparisons, max_size=2),
        query=st.dictionaries(st.sampled_from(["q", "r.s"]), comparisons, max_size=2),
    )


conditions = st.sampled_from(
    [
        'caller.labels["tier"] == service.labels["tier"]',
        '"x-tenant" in request.headers && request.headers["x-tenant"].startsWith("a")',
        '!(request.time.getDayOfWeek("Europe/Paris") in [1, 2, 3])',
        'environment == "dev" || request.method == "POST"',
        'request.path.matches("/a/[0-9]+")',
    ]
)
asked_of_tokens: dict[str, st.SearchStrategy[Any]] = {
    "scopes": subset(("a:b", "c")),
    "bound": st.sampled_from([True, False, "certificate"]),
}
tokens = st.fixed_dictionaries(
    {"audience": st.just("payments"), "issuer": st.sampled_from(["internal", "own"])},
    optional={**asked_of_tokens, "claims": st.just({"dept": "fin"})},
)
sent_along = st.fixed_dictionaries(
    {"audience": st.just("payments"), "issuer": st.just("own"), "inject": st.just(True)},
    optional=asked_of_tokens,
)
mcp_keys: dict[str, st.SearchStrategy[Any]] = {
    "tools": subset(("read", "list_*")),
    "resources": subset(("file:///a", "file:///b/*")),
    "prompts": subset(("review",)),
    "mcp_methods": subset(("logging/setLevel", "tools/list")),
}


def rules(
    protocol: str, *, port: str | None, inside: bool = True, allows: bool = True
) -> st.SearchStrategy[Document]:
    """``inside``: of a service, not of a host outside."""
    said = {"from": callers, **({"port": st.just(port)} if port else {})}
    more: dict[str, st.SearchStrategy[Any]] = {
        "mode": st.sampled_from(["enforce", "shadow"] if inside else ["enforce"]),
        "expires": instants,
        "reason": st.just("why"),
    }
    if protocol != "tcp":
        more |= {"methods": methods(protocol), "paths": subset(("/a/**", "/b", "/c/{id}"))}
        more |= {"when": conditions, "token": tokens | sent_along if allows else tokens} if inside else {}
    if protocol == "mcp" and inside:
        more |= mcp_keys
    ends = {"reason": more["reason"], "expires": more["expires"]}
    rest = {key: value for key, value in more.items() if key not in ends}
    anyone = st.fixed_dictionaries({**said, **ends, "from": st.just("anyone")}, optional=rest)
    named = st.fixed_dictionaries(said, optional=more)
    return named | anyone if inside and not allows else named


def numbered(items: Sequence[Any]) -> list[Document]:
    """The items with an id each."""
    return [{"id": f"i{number}", **item} for number, item in enumerate(items)]


def routes(protocol: str) -> st.SearchStrategy[list[Document]]:
    mirrors = st.sampled_from(["v1", "v2", "service:web", "service:orders/main"])
    leading = st.fixed_dictionaries(
        {},
        optional={
            "match": matches(protocol),
            "split": splits,
            "rewrite": rewrites,
            "timeout": st.sampled_from(["20ms", "1s"]),
            "idle_timeout": durations,
            "retry": retries(protocol),
            "mirror": st.lists(
                st.fixed_dictionaries({"to": mirrors}, optional={"percent": per_cents}),
                min_size=1,
                max_size=2,
            ),
            "fault": faults,
            "port": st.just("main"),
        },
    )
    hedging = st.fixed_dictionaries(
        {"match": matches(protocol), "hedge": st.just({"after": "10ms", "attempts": 3})}
    )
    away = st.fixed_dictionaries({"match": matches(protocol), "redirect": redirects})
    return st.lists(leading | hedging | (leading if protocol == "grpc" else away), max_size=3).map(numbered)


@st.composite
def services(draw: st.DrawFn, name: str) -> Document:
    protocol = PROTOCOLS[name]
    port = draw(st.sampled_from([None, "main"]))
    plain: Document = {"id": "a"}
    if protocol != "tcp":
        plain |= {"port": "main", "methods": ["POST"], "paths": ["/a/**"]}
    keys: dict[str, st.SearchStrategy[Any]] = {
        "owner": st.just("team"),
        "labels": st.just({"tier": "critical"}),
        "deny_detail": st.sampled_from(["code", "caller"]),
        "outlier_detection": outliers,
        "locality": localities,
        "mtls": st.sampled_from(
            ["strict", {"permissive_until": "2099-01-01T00:00:00Z", "reason": "why", "allow": [plain]}]
        ),
    }
    if protocol == "tcp":
        keys |= {"health": st.just({"tcp": True}), "circuit_limits": st.just({"connections": 3})}
    else:
        checking = {"port": "main", "every": "2s", "timeout": "1s", "unhealthy": 2, "healthy": 2}
        check = {"grpc": "a.B"} if protocol == "grpc" else {"http": "/healthz"}
        keys |= {
            "health": st.just({**check, **checking}),
            "circuit_limits": circuits,
            "timeout": st.sampled_from(["50ms", "5s"]),
            "retry": retries(protocol),
            "routes": routes(protocol),
            "limits": st.sampled_from(
                [
                    [
                        {"requests": "100/s"},
                        {"requests": "5/m", "per": "caller", "burst": 7, "path": "/a/**"},
                    ],
                    [{"requests": "1000000/h", "port": "main"}],
                ]
            ),
        }
    denials = st.lists(rules(protocol, port=port, allows=False), min_size=1, max_size=2)
    keys["deny"] = denials.map(
        lambda found: [{**each, "id": f"d{each_id}"} for each_id, each in enumerate(found)]
    )
    made = {
        "service": name,
        "versions": list(VERSIONS),
        "allow": numbered(draw(st.lists(rules(protocol, port=port), max_size=3))),
        **draw(some(**keys)),
    }
    takes_tokens = any("token" in each for each in (*made["allow"], *made.get("deny", ())))
    header = ["forward", "strip", *([] if takes_tokens else ["refuse"])]
    plain_port, words = {"protocol": protocol}, some(authorization=st.sampled_from(header))
    return {**made, "ports": {"main": plain_port if protocol == "tcp" else {**plain_port, **draw(words)}}}


@st.composite
def externals(draw: st.DrawFn, name: str) -> Document:
    protocol = draw(st.sampled_from(["http", "http2", "grpc", "tcp"]))
    keys: dict[str, st.SearchStrategy[Any]] = {
        "owner": st.just("team"),
        "addresses": st.just(["10.0.0.7:443", "[::1]:443"]),
        "tls": st.sampled_from(["webpki", {"sni": "x.example.com"}]),
        "outlier_detection": outliers,
    }
    if protocol != "tcp":
        keys |= {
            "credential": st.just({"header": "authorization", "prefix": "Bearer ", "file": "/etc/t"}),
            "timeout": st.sampled_from(["50ms", "5s"]),
            "retry": retries(protocol),
            "circuit_limits": circuits,
            "limits": st.just([{"requests": "10/s", "burst": 5, "path": "/a/**"}]),
        }
    return {
        "external": name,
        "hosts": draw(subset(("api.example.com:443", "10.0.0.1:8443"))),
        "protocol": protocol,
        "allow": numbered(draw(st.lists(rules(protocol, port=None, inside=False), min_size=1, max_size=2))),
        **draw(some(**keys)),
    }


@st.composite
def gateways(draw: st.DrawFn, name: str) -> Document:
    to = draw(st.sampled_from(["web", "orders", "payments"]))
    hosts = subset(("shop.example.com", "a.example.net"))
    leading = st.fixed_dictionaries(
        {"to": st.just(to)},
        optional={
            "port": st.just("main"),
            "token": st.just({"issuer": "internal", "audience": "shop"}),
            "match": st.builds(lambda match, found: {**match, "hosts": found}, matches("http"), hosts),
            "rewrite": rewrites,
            "timeout": st.sampled_from(["20ms", "1s"]),
            "idle_timeout": durations,
            "retry": retries("http"),
        },
    )
    if PROTOCOLS[to] == "grpc":
        leading = st.just({"to": to})
    away = st.fixed_dictionaries({"match": matches("http"), "redirect": redirects})
    tls = st.just({"certificate": "/etc/tls.crt", "key": "/etc/tls.key"})
    return {
        "gateway": name,
        "listeners": {
            "https": {"port": 8443, "hosts": ["shop.example.com", "*.example.net"], "tls": draw(tls)},
            **draw(some(plain=st.just({"port": 8080, "address": "127.0.0.1"}))),
        },
        **draw(some(owner=st.just("team"))),
        "routes": [*numbered(draw(st.lists(away, max_size=1))), {"id": "last", **draw(leading)}],
    }


secret_paths = st.sampled_from(
    [
        ["secret/a/**", "secret/b"],
        ["secret/{team}/db", "secret/*/x/**"],
        ["database/creds/a", "transit/encrypt/{key}"],
        ["secret/a/b"],
    ]
)
secret_conditions = st.sampled_from(
    [
        'caller.labels["tier"] == "critical" || environment == "dev"',
        'request.time > timestamp("2026-01-01T00:00:00Z")',
    ]
)


def secret_rules(*, allows: bool) -> st.SearchStrategy[Document]:
    verbs = st.sampled_from([["read"], ["read", "list"], ["write", "rotate"]])
    more: dict[str, st.SearchStrategy[Any]] = {
        "when": secret_conditions,
        "mode": st.sampled_from(["enforce", "shadow"]),
    }
    ends: dict[str, st.SearchStrategy[Any]] = {"expires": instants, "reason": st.just("why")}
    said: dict[str, st.SearchStrategy[Any]] = {"paths": secret_paths}
    if allows:
        said |= {"may": verbs}
    else:
        more |= {"may": verbs}
    anyone = st.fixed_dictionaries({**said, **ends, "from": st.just("anyone")}, optional=more)
    return anyone | st.fixed_dictionaries({**said, "from": callers}, optional={**more, **ends})


@st.composite
def secrets(draw: st.DrawFn, name: str) -> Document:
    denials = draw(st.lists(secret_rules(allows=False), max_size=2))
    return {
        "secrets": name,
        "allow": numbered(draw(st.lists(secret_rules(allows=True), max_size=2))),
        "deny": [{"id": f"d{number}", **each} for number, each in enumerate(denials)],
        **draw(some(owner=st.just("team"))),
    }


token_conditions = st.sampled_from(
    ['caller.labels["tier"] == "critical"', 'request.time > timestamp("2026-01-01T00:00:00Z")']
)
given_conditions = st.sampled_from(
    ["token.claims.email_verified == true", 'token.scopes.exists(each, each == "report:read")']
)


def token_rules(*, allows: bool) -> st.SearchStrategy[Document]:
    ends: dict[str, st.SearchStrategy[Any]] = {"expires": instants, "reason": st.just("why")}
    more = {**ends, "mode": st.sampled_from(["enforce", "shadow"])}
    scopes = st.sampled_from([["report:read"], ["report:read", "a/b?c"]] + ([[]] if allows else []))
    terms = {
        "lasts": st.sampled_from(["1m", "900s", "5m"]),
        "binding": st.sampled_from(["identity", "certificate"]),
        "may_act": st.sampled_from(["orders", "spiffe://example.org/ns/prod/sa/web"]),
    }
    given = st.sampled_from([["receive"], ["receive", "exchange"]])
    if not allows:
        more |= {"scopes": scopes}
        issuers = st.just(["internal"])
        return _from_somebody(
            st.fixed_dictionaries({}, optional={**more, "when": token_conditions})
            | st.fixed_dictionaries({"may": given}, optional={**more, "when": given_conditions})
            | st.fixed_dictionaries({"may": st.just(["admit"])}, optional={**more, "issuers": issuers})
        )
    terms |= more
    own = st.fixed_dictionaries(
        {"may": st.just(["mint"]), "scopes": scopes}, optional={**terms, "when": token_conditions}
    )
    got = st.fixed_dictionaries(
        {"may": given, "scopes": scopes}, optional={**terms, "when": given_conditions}
    )
    handed = st.fixed_dictionaries({"may": st.just(["exchange"])}, optional={**more, "scopes": scopes})
    admitted = st.fixed_dictionaries(
        {"may": st.just(["admit"]), "issuers": st.just(["internal"]), "scopes": scopes}, optional=terms
    )
    return _from_somebody(own | got | handed | admitted)


def _from_somebody(rules: st.SearchStrategy[Document]) -> st.SearchStrategy[Document]:
    return st.builds(lambda who, rule: {**rule, "from": who}, callers, rules)


@st.composite
def token_groups(draw: st.DrawFn, name: str, audience: str) -> Document:
    denials = draw(st.lists(token_rules(allows=False), max_size=2))
    return {
        "tokens": name,
        "audiences": [audience, f"https://{audience}.example.org/v1"],
        "scopes": ["report:read", "a/b?c"],
        "allow": numbered(draw(st.lists(token_rules(allows=True), max_size=2))),
        "deny": [{"id": f"d{number}", **each} for number, each in enumerate(denials)],
        **draw(some(owner=st.just("team"), depth=st.integers(1, 10), **{"for": callers})),
    }


@st.composite
def meshes(draw: st.DrawFn) -> Document:
    defaults = some(
        timeout=st.sampled_from(["1s", "10s"]),
        retry=retries("http"),
        circuit_limits=circuits,
        outlier_detection=outliers,
        mtls=st.just("strict"),
    )
    rollouts = some(first=st.just("10%"), watch=durations, errors=st.just("2%"))
    return {
        "mesh": "shop",
        "trust_domain": "example.org",
        "environment": "prod",
        "roles": {
            "staff": ["web", "spiffe://example.org/ns/staff/**", {"who": "orders", "until": draw(instants)}]
        },
        "issuers": {
            "internal": {
                "issuer": "https://tokens.example.org",
                "keys": draw(st.sampled_from([KEY_FILE, "https://tokens.example.org/jwks"])),
                **draw(some(longest=st.just("1h"), audiences=st.just(["shop", "https://shop.example.org"]))),
            },
            "own": {"keys": "tokens"},
        },
        **draw(
            some(
                defaults=defaults,
                rollout=rollouts,
                identity=st.just("/{mesh}/{service}"),
                decide=st.sampled_from(["local", "central"]),
            )
        ),
    }


@st.composite
def intents(draw: st.DrawFn) -> dict[str, Document]:
    """Documents by file."""
    files: dict[str, Document] = {"mesh.yaml": draw(meshes())}
    # What is small goes first: of what is drawn last, little is left when much was drawn before.
    if draw(st.booleans()):
        files["secrets/payments.yaml"] = draw(secrets("payments"))
    if draw(st.booleans()):
        files["tokens/payments.yaml"] = draw(token_groups("payments", "reports"))
    if draw(st.booleans()):
        files["egress/stripe.yaml"] = draw(externals("stripe"))
    files["gateways/edge.yaml"] = draw(gateways("edge"))
    for name in SERVICES:
        files[f"services/{name}.yaml"] = draw(services(name))
    # Some parts are constants; whoever changes a document must not change those.
    return deepcopy(files)
