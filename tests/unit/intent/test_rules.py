"""What rules ask for beyond callers, methods and paths; roles that hold roles; issuers of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.unit.intent.reading import CALLER, MESH, PAYMENTS, accepted, found, only, whole_language

from vestibule.intent import Intent, Loaded, load_files
from vestibule.intent.model import Decide, IssuerKind
from vestibule.policy import Effect, McpDemand, Mode, TokenDemand

YEAR_END = datetime(2026, 12, 31, 18, tzinfo=UTC)
PUBLIC = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "one",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
ISSUERS = (
    "issuers: {internal: {issuer: 'https://tokens.example.org', keys: keys/internal.json, longest: 1h}}\n"
)
MCP = "service: payments\nports: {mcp: {protocol: mcp}}\nallow:\n- {id: agent, from: [orders]}\n"


@pytest.fixture(autouse=True)
def everything_is_read() -> Iterator[None]:
    with whole_language():
        yield


def read(payments: str = PAYMENTS, mesh: str = MESH, keys: str | None = None, **others: str) -> Loaded:
    services = {
        "payments": payments,
        "orders": CALLER.format("orders"),
        "bob": CALLER.format("bob"),
        **others,
    }
    files = {f"services/{name}.yaml": text.encode() for name, text in services.items()}
    files |= {"keys/internal.json": keys.encode()} if keys is not None else {}
    return load_files({"mesh.yaml": mesh.encode(), **files})


def key_set(*keys: object) -> str:
    return json.dumps({"keys": list(keys or [PUBLIC])})


def with_rule(line: str, payments: str = PAYMENTS) -> str:
    return payments + f"    {line}\n"


def denying(rule: str) -> str:
    return PAYMENTS + f"deny:\n  - {rule}\n"


def of_payments(intent: Intent) -> tuple[object, ...]:
    (rule,) = intent.services["payments"].allow
    return rule.mode, rule.expires, rule.reason, rule.token, rule.mcp, rule.anyone


# ------------------------------------------------------------------------------------------------ rules


def test_a_rule_may_end_be_tried_out_and_say_why() -> None:
    text = with_rule("mode: shadow\n    expires: 2026-12-31T18:00:00Z\n    reason: to be seen")
    mode, expires, reason, *_ = of_payments(accepted(read(text)))
    assert (mode, expires, reason) == (Mode.SHADOW, YEAR_END, "to be seen")


def test_what_is_denied_is_written_like_what_is_allowed() -> None:
    text = denying("{id: not-bob, from: [bob], methods: [DELETE], paths: [/v1/**]}")
    (rule,) = accepted(read(text)).services["payments"].deny
    assert (rule.name, rule.effect, rule.port) == ("payments/not-bob", Effect.DENY, "http")
    assert str(rule.where) == "services/payments.yaml:9:5"


def test_two_rules_do_not_share_a_name_even_if_one_allows_and_one_denies() -> None:
    place, message, _ = only(read(denying("{id: orders-charge, from: [bob]}")))
    assert place == "services/payments.yaml:9:10 VST0026"
    assert "line 4" in message


def test_a_denial_that_another_one_holds_changes_nothing() -> None:
    place, message, _ = only(read(denying("{id: a, from: [bob]}\n  - {id: b, from: [bob], methods: [PUT]}")))
    assert (place, message) == (
        "services/payments.yaml:10:5 VST0052",
        "the rule payments/b changes nothing: payments/a denies all of it",
    )


def test_what_is_tried_out_makes_no_rule_superfluous_that_decides() -> None:
    trial = with_rule("").replace("    \n", "  - {id: trial, from: [orders], mode: shadow}\n")
    accepted(read(trial))
    decides = trial.replace(", mode: shadow", "").replace("[/v1/charges]", "[/v1/charges]\n    mode: shadow")
    assert only(read(decides))[0] == "services/payments.yaml:4:5 VST0052"


def test_everybody_may_be_let_in_with_a_reason_and_an_end() -> None:
    everybody = PAYMENTS.replace("[orders]", "anyone")
    text = with_rule("reason: a public price list\n    expires: 2026-12-31T18:00:00Z", everybody)
    *_, anyone = of_payments(accepted(read(text)))
    assert anyone is True
    assert only(read(everybody))[:2] == (
        "services/payments.yaml:5:11 VST0070",
        "the rule allows everybody, and lacks reason and expires",
    )
    assert (
        accepted(read(denying("{id: a, from: anyone, methods: [PUT]}"))).services["payments"].deny[0].anyone
    )


@pytest.mark.parametrize(
    ("written", "code"), [("[anyone]", "VST0025"), ("everyone", "VST0022"), ("[orders, anyone]", "VST0025")]
)
def test_everybody_is_written_in_one_way(written: str, code: str) -> None:
    assert found(read(PAYMENTS.replace("[orders]", written)))[0].endswith(code)


@pytest.mark.parametrize("line", ["when: 'true'", "token: {audience: a}", "methods: [PUT]"])
def test_a_rule_for_tcp_speaks_of_callers_only(line: str) -> None:
    text = "service: payments\nports: {raw: {protocol: tcp}}\nallow:\n  - id: a\n    from: [orders]\n"
    loaded = read(with_rule(line, text), MESH + ISSUERS, key_set())
    assert found(loaded) == ["services/payments.yaml:6:5 VST0050"]
    accepted(read(with_rule("expires: 2026-12-31T18:00:00Z", text)))


# ------------------------------------------------------------------------------------------- conditions


def test_a_condition_is_checked_and_kept_as_it_was_written() -> None:
    text = "caller.labels.env == service.labels.env"
    (rule,) = accepted(read(with_rule(f"when: '{text}'"))).services["payments"].allow
    assert rule.when is not None
    assert rule.when.source == text
    assert rule.when.uses == {"caller.labels", "service.labels"}


@pytest.mark.parametrize(
    ("written", "place", "code"),
    [
        ("when: 'caller.labls.env == \"a\"'", "8:12", "VST4041"),
        ("when: request.methd == 'GET'", "8:11", "VST4041"),
        ("when: 'true && request.methd == \"GET\"'", "8:20", "VST4041"),
        ("when: \"true && request.methd == 'GET'\"", "8:20", "VST4041"),
        ("when: \"'\\u0061' == request.methd\"", "8:24", "VST4041"),
        ("when: '''GET'' == request.methd'", "8:23", "VST4041"),
        ("when: |\n      true &&\n      request.methd == 'GET'", "10:7", "VST4041"),
        ("when: >-\n      true &&\n      request.methd == 'GET'", "10:7", "VST4041"),
        ("when: true &&\n      request.methd == 'GET'", "9:7", "VST4041"),
        ("when: 'token.subject == \"a\"'", "8:12", "VST4041"),
        ("when: 'mcp.method == \"a\"'", "8:12", "VST4041"),
        ("when: request.method", "8:11", "VST4042"),
        ("when: ''", "8:11", "VST4040"),
        ("when: true", "8:11", "VST0022"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told_where_it_stands(written: str, place: str, code: str) -> None:
    where, message, advice = only(read(with_rule(written)))
    assert where == f"services/payments.yaml:{place} {code}", message
    assert advice


def test_a_condition_may_speak_of_the_token_that_its_rule_asks_for() -> None:
    text = with_rule("when: token.subject == 'alice'\n    token: {audience: payments}")
    accepted(read(text, MESH + ISSUERS, key_set()))


# ----------------------------------------------------------------------------------------------- tokens


def test_a_rule_may_ask_for_a_token() -> None:
    token = "token: {issuer: internal, audience: payments, scopes: [charge:write], claims: {dept: fin}, bound: false}"
    *_, demand, _, _ = of_payments(accepted(read(with_rule(token), MESH + ISSUERS, key_set())))
    assert demand == TokenDemand(
        issuer="internal",
        audience="payments",
        scopes=("charge:write",),
        claims=(("dept", "fin"),),
        bound=False,
    )


def test_the_only_issuer_need_not_be_named() -> None:
    token = with_rule("token: {audience: payments}")
    *_, demand, _, _ = of_payments(accepted(read(token, MESH + ISSUERS, key_set())))
    assert demand == TokenDemand(issuer="internal", audience="payments")
    assert only(read(token))[:2] == (
        "services/payments.yaml:8:12 VST0021",
        "the token does not say whose it must be, and mesh.yaml has no issuers",
    )


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("{issuer: internl, audience: a}", "VST0040"),
        ("{issuer: internal}", "VST0021"),
        ("{issuer: internal, audience: a, scopes: ['a b']}", "VST0025"),
        ("{issuer: internal, audience: a, scopes: []}", "VST0025"),
        ("{issuer: internal, audience: a, claims: {'a b': c}}", "VST0025"),
        ("{issuer: internal, audience: a, claims: {a: 1}}", "VST0022"),
        ("{issuer: internal, audience: a, boun: true}", "VST0020"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(token: str, code: str) -> None:
    place, _, advice = only(read(with_rule(f"token: {token}"), MESH + ISSUERS, key_set()))
    assert place.endswith(code)
    assert advice


def test_an_issuer_has_a_name_and_keys() -> None:
    mesh = accepted(read(mesh=MESH + ISSUERS + "decide: central\n", keys=key_set())).mesh
    issuer = mesh.issuers["internal"]
    assert (issuer.issuer, str(issuer.longest), mesh.decide) == (
        "https://tokens.example.org",
        "1:00:00",
        Decide.CENTRAL,
    )
    assert json.loads(issuer.keys)["keys"] == [PUBLIC]


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (None, "VST0040"),
        ("{", "VST0068"),
        ("[]", "VST0068"),
        ('{"keys": []}', "VST0068"),
        ('{"keys": [1]}', "VST0068"),
        (key_set({**PUBLIC, "kty": "oct"}), "VST0068"),
        (key_set({**PUBLIC, "crv": "secp256k1"}), "VST0068"),
        (key_set({**PUBLIC, "use": "enc"}), "VST0068"),
        (key_set({**PUBLIC, "x": "AAAA"}), "VST0068"),
        (
            key_set({"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4", "e": "AQAB"}),
            "VST0068",
        ),
        (key_set(PUBLIC, PUBLIC), "VST0068"),
        ("[" * 100_000, "VST0068"),
    ],
)
def test_keys_that_verify_nothing_are_refused(keys: str | None, code: str) -> None:
    assert only(read(mesh=MESH + ISSUERS, keys=keys))[0] == f"mesh.yaml:4:66 {code}"


def test_the_meshs_own_jwt_svids_need_no_address_and_no_file() -> None:
    found = accepted(read(with_rule("token: {audience: a}"), MESH + "issuers: {own: {keys: spiffe}}\n"))
    issuer = found.mesh.issuers["own"]
    assert (issuer.kind, issuer.issuer, issuer.keys) == (IssuerKind.SPIFFE, "", "")
    (rule,) = (each for each in found.services["payments"].allow if each.token)
    assert rule.token is not None
    assert rule.token.svid
    place, message, _ = only(read(mesh=MESH + "issuers: {own: {keys: keys/a.json}}\n"))
    assert place.endswith("VST0021"), message


def test_what_refers_to_an_issuer_in_error_is_not_called_unknown() -> None:
    token = with_rule("token: {audience: a}")
    assert only(read(token, MESH + "issuers: []\n"))[0] == "mesh.yaml:4:10 VST0022"


# -------------------------------------------------------------------------------------------------- MCP


def test_a_rule_for_mcp_says_which_tools() -> None:
    rule = "  tools: [read_file, 'list_*']\n  resources: ['file:///docs/*']\n  prompts: [review]\n"
    rule += "  mcp_methods: [tools/list]\n"
    text = MCP.replace("- {id: agent, from: [orders]}\n", "- id: agent\n  from: [orders]\n" + rule)
    *_, demand, _ = of_payments(accepted(read(text)))
    assert demand == McpDemand(
        tools=("read_file", "list_*"),
        resources=("file:///docs/*",),
        prompts=("review",),
        methods=("tools/list",),
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("tools: []", "VST0025"),
        ("tools: ['*_file']", "VST0025"),
        ("tools: ['a b']", "VST0025"),
        ("tools: ['list_*', list_dir]", "VST0052"),
        ("resources: ['FILE:///docs/a']", "VST0025"),
        ("resources: ['file:///docs/../*']", "VST0025"),
        ("mcp_methods: [tools/lists]", "VST0025"),
        ("tools: [a], methods: [GET]", "VST0054"),
    ],
)
def test_tools_that_make_no_sense_are_refused(said: str, code: str) -> None:
    assert only(read(MCP.replace("[orders]", f"[orders], {said}")))[0].endswith(code)


def test_tools_are_for_mcp_ports() -> None:
    place, message, _ = only(read(with_rule("tools: [a]")))
    assert place == "services/payments.yaml:8:5 VST0067"
    assert message == "'http' speaks http, where a rule cannot have tools"


# ------------------------------------------------------------------------------------------------ roles


def members(mesh: str, role: str) -> list[str]:
    found = accepted(read(mesh=MESH + mesh)).mesh.roles[role]
    return [f"{each.id.path.rpartition('/')[2]} {each.until or ''}".strip() for each in found]


def test_a_membership_may_end() -> None:
    mesh = "roles: {temps: [orders, {who: bob, until: 2026-12-31T18:00:00Z}]}\n"
    assert members(mesh, "temps") == ["orders", "bob 2026-12-31 18:00:00+00:00"]


def test_roles_hold_roles_whatever_their_order() -> None:
    mesh = "roles: {a: ['role:b', orders], b: ['role:c'], c: [bob]}\n"
    assert members(mesh, "a") == ["bob", "orders"]


def test_whoever_is_a_member_in_two_ways_is_one_until_the_later_end() -> None:
    mesh = (
        "roles:\n  inner: [{who: bob, until: 2026-12-31T18:00:00Z}, {who: orders, until: 2027-01-01T00:00:00Z}]\n"
        "  a: ['role:inner', bob]\n"
        "  b: [{who: 'role:inner', until: 2026-12-31T20:00:00Z}]\n"
    )
    assert members(mesh, "a") == ["bob", "orders 2027-01-01 00:00:00+00:00"]
    assert members(mesh, "b") == ["bob 2026-12-31 18:00:00+00:00", "orders 2026-12-31 20:00:00+00:00"]


def test_a_role_that_holds_itself_is_refused_with_the_way_round() -> None:
    loaded = read(mesh=MESH + "roles: {a: ['role:b'], b: [bob, 'role:c'], c: ['role:a']}\n")
    assert only(loaded)[:2] == ("mesh.yaml:4:48 VST0069", "the role 'a' holds itself: a → b → c → a")


def test_a_long_chain_of_roles_is_no_trouble() -> None:
    chain = ", ".join(f"r{n}: ['role:r{n + 1}']" for n in range(3000))
    assert members(f"roles: {{{chain}, r3000: [bob]}}\n", "r0") == ["bob"]


def test_roles_that_grow_beyond_all_bounds_are_refused() -> None:
    many = ", ".join(f"'spiffe://example.org/w/{n}'" for n in range(2000))
    roles = ", ".join(f"r{n}: ['role:base']" for n in range(600))
    assert only(read(mesh=MESH + f"roles: {{base: [{many}], {roles}}}\n"))[0].endswith("VST0025")


def test_a_member_that_is_listed_twice_is_refused() -> None:
    mesh = MESH + "roles:\n  a:\n    - bob\n    - {who: bob, until: 2026-12-31T18:00:00Z}\n"
    assert only(read(mesh=mesh))[0] == "mesh.yaml:7:7 VST0026"


def test_rules_that_no_index_can_tell_apart_are_refused_once() -> None:
    lines = "".join(
        f"  - {{id: t{number}, from: [orders], paths: ['/{{tenant}}/a{number}']}}\n" for number in range(150)
    )
    place, message, _ = only(read(f"service: payments\nports: {{http: {{protocol: http}}}}\nallow:\n{lines}"))
    assert place.endswith("VST4050")
    assert "no index can tell apart" in message
