"""What an intent means differently from another: in sentences, and exactly as the rules decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.intent import Intent, load_files
from vestibule.intent.differences import Difference, difference
from vestibule.intent.model import Port, Protocol, Service
from vestibule.intent.outside import External, Gateway, GatewayListener, HostPort
from vestibule.intent.traffic import Mirror, Permissive, RateLimit, Retry, Route, RouteMatch, Share, Traffic
from vestibule.policy import Call, IdentityMatch, PathPattern, Rule
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided

MESH = "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
ORDERS = "service: orders\nports: {http: {protocol: http}}\nallow: [{id: a, from: [web]}]\n"
WEB = "service: web\nports: {http: {protocol: http}}\nallow: [{id: a, from: [orders]}]\n"
PAYMENTS = """
service: payments
ports: {http: {protocol: http}}
allow:
  - {id: orders-charge, from: [orders], methods: [POST], paths: [/v1/charges]}
"""
END = "2036-12-31T18:00:00Z"
DATABASE = "service: db\nports: {sql: {protocol: tcp}}\nallow: [{id: a, from: [payments]}]\n"
FILES = {
    "mesh.yaml": MESH,
    "services/orders.yaml": ORDERS,
    "services/web.yaml": WEB,
    "services/payments.yaml": PAYMENTS,
}


def intent(changed: Mapping[str, str | None] | None = None) -> Intent:
    files = {**FILES, **(changed or {})}
    loaded = load_files({name: text.encode() for name, text in files.items() if text is not None})
    assert loaded.intent is not None, [str(each.error) for each in loaded.problems]
    return loaded.intent


def access(found: Difference) -> list[str]:
    return [str(each) for each in found.access]


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        ({}, []),
        ({"services/web.yaml": WEB.replace("{http: {protocol: http}}", "{http:  {protocol: http}}")}, []),
        (
            {"services/payments.yaml": PAYMENTS.replace("charges", "refunds")},
            ["orders gains POST /v1/refunds on payments", "orders loses POST /v1/charges on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS.replace("[orders]", "[orders, web]")},
            ["web gains POST /v1/charges on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS.replace("[/v1/charges]", "[/v1/**]")},
            ["orders gains POST /v1/** but /v1/charges on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS.replace("orders-charge", "renamed")},
            [],
        ),
        (
            {"services/payments.yaml": PAYMENTS + "deny: [{id: no, from: [orders], paths: [/v1/**]}]\n"},
            ["orders loses POST /v1/charges on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS.replace("[/v1/charges]", f"[/v1/charges], expires: {END}")},
            ["orders loses POST /v1/charges after 2036-12-31 18:00 UTC on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS + f"  - {{id: b, from: [web], expires: {END}}}\n"},
            ["web gains every call until 2036-12-31 18:00 UTC on payments"],
        ),
        (
            {"services/payments.yaml": PAYMENTS.replace("[orders]", f"anyone, reason: a, expires: {END}")},
            [
                "payments, web and everybody else with an identity gain POST /v1/charges until "
                "2036-12-31 18:00 UTC on payments",
                "orders loses POST /v1/charges after 2036-12-31 18:00 UTC on payments",
            ],
        ),
        ({"services/payments.yaml": PAYMENTS + "  - {id: b, from: [web], mode: shadow}\n"}, []),
        ({"services/db.yaml": DATABASE}, ["payments gains connections to db"]),
        ({"services/payments.yaml": None}, ["orders loses POST /v1/charges on payments"]),
        (
            {
                "services/payments.yaml": PAYMENTS.replace(
                    "from: [orders]", "from: ['spiffe://example.org/ns/prod/**']"
                )
            },
            ["payments, web and spiffe://example.org/ns/prod/** gain POST /v1/charges on payments"],
        ),
        (
            {
                "services/payments.yaml": PAYMENTS.replace(
                    "from: [orders]", "from: [orders, 'spiffe://example.org/x']"
                )
            },
            ["spiffe://example.org/x gains POST /v1/charges on payments"],
        ),
        (
            {
                "services/payments.yaml": PAYMENTS.replace(
                    "{http:", "{other: {protocol: http}, http:"
                ).replace("from", "port: other, from")
            },
            [
                "orders loses POST /v1/charges on payments/http",
                "orders gains POST /v1/charges on payments/other",
            ],
        ),
    ],
)
def test_who_gains_or_loses_which_call_is_a_sentence(
    changed: dict[str, str | None], sentences: list[str]
) -> None:
    assert sorted(access(difference(intent(), intent(changed)))) == sorted(sentences)


def test_another_template_of_identities_takes_no_call_from_a_service() -> None:
    found = difference(intent(), intent({"mesh.yaml": MESH + "identity: /{service}\n"}))
    assert access(found) == []
    assert found.settings[0].subject == "mesh.yaml"
    assert "identity spiffe://example.org/ns/prod/sa/orders → spiffe://example.org/orders" in {
        str(each) for each in found.settings
    }


def test_a_change_names_the_rules_and_their_places() -> None:
    found = difference(None, intent())
    (change,) = [each for each in found.access if each.target.name == "payments"]
    ((rule, where),) = change.rules.items()
    assert (rule, str(where)) == ("payments/orders-charge", "services/payments.yaml:5:5")


def test_what_is_removed_is_lost_and_said() -> None:
    found = difference(intent(), intent({"services/payments.yaml": None}))
    assert [str(each) for each in found.losses] == ["orders loses POST /v1/charges on payments"]
    assert [(each.subject, str(each)) for each in found.settings] == [("payments", "removed")]


def with_traffic(traffic: Traffic) -> Intent:
    before = intent()
    return replace(
        before, services={**before.services, "web": replace(before.services["web"], traffic=traffic)}
    )


def route(name: str, **values: object) -> Route:
    return Route(name=f"web/{name}", port="http", **values)  # type: ignore[arg-type]


def split(v1: int, v2: int) -> tuple[Share, ...]:
    return (Share(version="v1", weight=v1), Share(version="v2", weight=v2))


CANARY = route("canary", match=RouteMatch(path=PathPattern.parse("/v1/**")), split=split(90, 10))


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        (Traffic(), Traffic(), []),
        (
            Traffic(routes=(CANARY,)),
            Traffic(routes=(replace(CANARY, split=split(50, 50)),)),
            ["route canary: split.v1 90 → 50, split.v2 10 → 50"],
        ),
        (
            Traffic(),
            Traffic(routes=(CANARY,)),
            ["route canary added: match.path /v1/**, port http, split.v1 90, split.v2 10"],
        ),
        (Traffic(routes=(CANARY,)), Traffic(), ["route canary removed"]),
        (
            Traffic(routes=(CANARY, route("b"))),
            Traffic(routes=(route("b"), CANARY)),
            ["order of routes canary, b → b, canary"],
        ),
        (
            Traffic(timeout=timedelta(seconds=2)),
            Traffic(timeout=timedelta(milliseconds=1500), retry=Retry(attempts=2)),
            [
                "timeout 2s → 1500ms, retry.attempts 2, "
                "retry.on connect-failure, refused-stream, reset-before-request, retry.backoff 25ms"
            ],
        ),
        (
            Traffic(limits=(RateLimit(requests=100),)),
            Traffic(limits=(RateLimit(requests=50),)),
            ["limit 1: requests 100 → 50"],
        ),
    ],
)
def test_what_else_changes_is_told_key_by_key(old: Traffic, new: Traffic, sentences: list[str]) -> None:
    found = difference(with_traffic(old), with_traffic(new))
    assert [str(each) for each in found.settings] == sentences
    assert {each.subject for each in found.settings} <= {"web"}


def test_hosts_outside_and_gateways_are_compared_too() -> None:
    before = intent()
    orders = IdentityMatch(id=before.services["orders"].spiffe_id)
    stripe = External(
        name="stripe",
        hosts=(HostPort(host="api.stripe.com", port=443),),
        allow=(Rule(name="egress/stripe/a", callers=(orders,), methods=frozenset({"POST"})),),
        ca="-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
    )
    edge = Gateway(
        name="edge",
        spiffe_id=SpiffeId.parse("spiffe://example.org/ns/prod/sa/edge"),
        listeners={"https": GatewayListener(name="https", port=8443)},
        routes=(Route(name="edge/api", service="web", service_port="http"),),
    )
    found = difference(before, replace(before, externals={"stripe": stripe}, gateways={"edge": edge}))
    assert access(found) == ["orders gains POST of every path on stripe"]
    told = {f"{each.subject}: {each}" for each in found.settings}
    assert "gateway edge: route api added: service web, service_port http" in told
    assert "gateway edge: listener https added: port 8443, address 0.0.0.0, hosts *" in told
    assert "MII" not in str(told)
    back = difference(replace(before, externals={"stripe": stripe}), before)
    assert [str(each) for each in back.losses] == ["orders loses POST of every path on stripe"]


def test_permissive_mtls_is_told() -> None:
    until = datetime(2026, 12, 31, tzinfo=UTC)
    found = difference(intent(), with_traffic(Traffic(permissive=Permissive(until=until, reason="legacy"))))
    assert [str(each) for each in found.settings] == [
        "mtls.permissive.until 2026-12-31T00:00:00+00:00, mtls.permissive.reason legacy"
    ]


def test_who_may_come_in_plain_text_is_told_like_any_caller() -> None:
    def permissive(*rules: Rule) -> Intent:
        until = datetime(2026, 12, 31, tzinfo=UTC)
        return with_traffic(Traffic(permissive=Permissive(until=until, reason="legacy", allow=rules)))

    narrow = Rule(
        name="web/plaintext/a",
        callers=(),
        methods=frozenset({"GET"}),
        paths=(PathPattern.parse("/health"),),
    )
    found = difference(permissive(narrow), permissive(replace(narrow, methods=frozenset(), paths=())))
    assert access(found) == [
        "anybody in plain text gains GET /** but /health on web",
        "anybody in plain text gains every method but GET of every path on web",
    ]
    assert [str(each) for each in difference(permissive(narrow), permissive()).losses] == [
        "anybody in plain text loses GET /health on web"
    ]


def test_where_copies_go_is_told() -> None:
    first, second = (
        with_traffic(Traffic(versions=("v1", "v2"), routes=(route("r", mirror=(Mirror(version=each),)),)))
        for each in ("v1", "v2")
    )
    assert [str(each) for each in difference(first, second).settings] == ["route r: mirror.1.version v1 → v2"]


# ------------------------------------------------------------------------------------------ exactness

NAMES = ("a", "b", "c")
MATCHES = st.sampled_from(
    [
        *(f"spiffe://example.org/ns/prod/sa/{name}" for name in NAMES),
        *(
            "spiffe://example.org/ns/prod/**",
            "spiffe://example.org/ns/prod/sa/a/**",
            "spiffe://partner.org/x",
        ),
    ]
).map(IdentityMatch.parse)
PATTERNS = st.sampled_from(["/a", "/b/**", "/**", "/{x}", "/a/{x}", "/a/**"]).map(PathPattern.parse)
RULES = st.lists(
    st.builds(
        Rule,
        name=st.just("s/r"),
        callers=st.lists(MATCHES, min_size=1, max_size=2).map(tuple),
        port=st.just("http"),
        methods=st.frozensets(st.sampled_from(["GET", "POST"]), max_size=2),
        paths=st.lists(PATTERNS, max_size=2).map(tuple),
    ),
    max_size=3,
)
INTENTS = st.dictionaries(st.sampled_from(NAMES), RULES)
CALLERS = [
    *(f"ns/prod/sa/{name}" for name in NAMES),
    *("ns/prod", "ns/prod/sa/a/inner", "ns/prod/sa/elsewhere", "ns/other"),
]
IDS = [SpiffeId.parse(f"spiffe://example.org/{each}") for each in CALLERS] + [
    SpiffeId.parse("spiffe://partner.org/x")
]


def built(rules: Mapping[str, list[Rule]]) -> Intent:
    services = {
        name: Service(
            name=name,
            spiffe_id=SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{name}"),
            ports={"http": Port(name="http", protocol=Protocol.HTTP)},
            allow=tuple(found),
        )
        for name, found in rules.items()
    }
    return replace(intent(), services=services)


def told_of(name: str, rules: Mapping[str, list[Rule]], caller: SpiffeId) -> bool:
    """Whether a caller's name in a sentence means an identity."""
    services = {f"spiffe://example.org/ns/prod/sa/{each}": each for each in rules}
    if (own := services.get(str(caller))) is not None:
        return name == own
    if name.startswith("spiffe://"):
        match = IdentityMatch.parse(name.removesuffix(" (others)"))
        nearest = [
            each
            for found in rules.values()
            for rule in found
            for each in rule.callers
            if each.matches(caller) and len(str(each.id)) > len(str(match.id))
        ]
        strangers = name.endswith(" (others)") and caller == match.id
        return match.matches(caller) and not nearest and not strangers
    return False


@settings(deadline=None, max_examples=60)
@given(INTENTS, INTENTS)
def test_the_sentences_say_exactly_what_brute_force_finds(
    old: dict[str, list[Rule]], new: dict[str, list[Rule]]
) -> None:
    found = difference(built(old), built(new)).access
    both = {name: [*old.get(name, []), *new.get(name, [])] for name in {*old, *new}}
    for target in both:
        speaking = {name: both[name] if name == target else [] for name in both}
        for caller in IDS:
            for method, path in (
                ("GET", "/a"),
                ("POST", "/b/c"),
                ("PUT", "/a/b"),
                ("GET", "/z"),
                ("POST", "/b"),
            ):
                call = Call(caller=caller, port="http", method=method, path=path)
                was, now = (decided(each.get(target, []), call).allowed for each in (old, new))
                told = {
                    change.gains
                    for change in found
                    if change.target.name == target
                    and change.calls.matches(method, path)
                    and any(told_of(name, speaking, caller) for name in change.callers)
                }
                assert told == ({now} if was is not now else set()), (
                    target,
                    call,
                    [str(each) for each in found],
                )
