"""Rules for tokens: as their files say, or refused where they stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.intent.reading import CALLER, accepted, only

from vestibule.intent import Intent, Loaded, expired, load_files
from vestibule.intent.differences import difference
from vestibule.intent.lints import hints, weaknesses
from vestibule.intent.model import IssuerKind
from vestibule.intent.token_groups import TokenGroup
from vestibule.intent.token_policies import token_policy
from vestibule.intent.token_targets import path_of, pattern_of, read_pattern
from vestibule.policy import Call, decide
from vestibule.policy.paths import is_normal
from vestibule.spiffe import SpiffeId

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MESH = """\
mesh: shop
trust_domain: example.org
environment: prod
roles: {contractors: [audit]}
issuers:
  internal: {keys: tokens}
  corp: {issuer: https://login.example.com, keys: https://login.example.com/jwks}
"""
GROUP = """\
tokens: reports
owner: team-reports
audiences: [reports]
scopes: [report:read, report:write]
allow:
  - {id: web-own, from: [web], may: [mint], scopes: [report:read], lasts: 5m, binding: certificate, may_act: orders}
  - {id: chain, from: [orders], may: [receive], scopes: [report:read]}
  - {id: hand-on, from: [reports], may: [exchange]}
  - {id: login, from: [web], may: [admit], issuers: [corp], scopes: [], when: 'token.claims.email_verified == true'}
deny:
  - {id: no-contractors, from: ['role:contractors']}
"""
HEAD = "tokens: reports\naudiences: [reports]\nscopes: [report:read, report:write]\n"
SERVICES = ("reports", "orders", "web", "audit")


def read(group: str = GROUP, mesh: str = MESH, **more: str) -> Loaded:
    files = {f"services/{name}.yaml": CALLER.format(name) for name in SERVICES}
    files |= {"mesh.yaml": mesh, "tokens/reports.yaml": group} | more
    return load_files({name: text.encode() for name, text in files.items()})


def intent(group: str = GROUP, mesh: str = MESH, **more: str) -> Intent:
    return accepted(read(group, mesh, **more))


def group(text: str = GROUP) -> TokenGroup:
    return intent(text).tokens["reports"]


def rule(text: str) -> str:
    return f"{HEAD}allow:\n  - {{id: a, {text}}}\n"


def denial(text: str) -> str:
    return f"{HEAD}deny:\n  - {{id: a, {text}}}\n"


def refused(text: str, mesh: str = MESH) -> tuple[str, str]:
    """The code and the advice of the only problem."""
    place, _, said = only(read(text, mesh))
    return place.split()[1], said


def identity(name: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{name}")


def allowed(found: Intent, who: str, method: str, path: str) -> bool:
    call = Call(caller=identity(who), port="", method=method, path=path, time=NOW)
    return decide(token_policy(found), call).allowed


def test_a_group_says_who_may_come_by_which_token() -> None:
    found = group()
    own, _, hand_on, login = found.allow
    assert (own.name, {*own.methods}, str(own.where)) == (
        "reports/web-own",
        {"mint"},
        "tokens/reports.yaml:6:5",
    )
    assert [*map(read_pattern, own.paths)] == [("reports", ""), ("reports", "report:read")]
    assert [*map(read_pattern, hand_on.paths)] == [("reports", None)]
    assert login.methods == {"admit:corp"}
    assert [*map(read_pattern, login.paths)] == [("reports", "")]
    assert (found.audiences, found.scopes, found.owner, found.depth) == (
        ("reports",),
        ("report:read", "report:write"),
        "team-reports",
        4,
    )


def test_a_rule_says_what_its_tokens_are_like() -> None:
    found = group()
    own = found.terms["reports/web-own"]
    assert (own.lasts, own.certificate, own.may_act) == (timedelta(minutes=5), True, identity("orders"))
    chain = found.terms["reports/chain"]
    assert (chain.lasts, chain.certificate, chain.may_act) == (timedelta(minutes=10), False, None)


def test_tokens_are_made_for_the_service_of_the_groups_name_or_for_those_named() -> None:
    assert group().is_made_for(identity("reports"), NOW)
    assert not group().is_made_for(identity("web"), NOW)
    named = group(GROUP.replace("owner: team-reports", "for: [orders, 'role:contractors']"))
    assert [named.is_made_for(identity(each), NOW) for each in ("orders", "audit", "reports")] == [
        True,
        True,
        False,
    ]


def test_what_is_not_allowed_is_denied_scope_by_scope() -> None:
    found = intent()
    assert allowed(found, "web", "mint", "/reports")
    assert allowed(found, "web", "mint", "/reports/report:read")
    assert not allowed(found, "web", "mint", "/reports/report:write")
    assert not allowed(found, "web", "receive", "/reports/report:read")
    assert not allowed(found, "web", "mint", "/other")
    assert allowed(found, "reports", "exchange", "/reports/report:write")


def test_a_denial_of_no_scope_denies_every_token_and_one_of_some_scopes_those() -> None:
    mint = "  - {id: mine, from: [audit, web], may: [mint], scopes: [report:read, report:write]}\n"
    one = "  - {id: no-write, from: [web], scopes: [report:write]}\n"
    found = intent(f"{HEAD}allow:\n{mint}deny:\n{one}  - {{id: none, from: ['role:contractors']}}\n")
    assert not allowed(found, "audit", "mint", "/reports")
    assert allowed(found, "web", "mint", "/reports")
    assert allowed(found, "web", "mint", "/reports/report:read")
    assert not allowed(found, "web", "mint", "/reports/report:write")


@pytest.mark.parametrize(
    ("audience", "scope"),
    [
        ("https://api.example.org/v1?x=1#y", "a/b"),
        ("..", "."),
        ("a~2fb", "~"),
        ("a/b", ""),
        ("%2e", "a;b=c\\"),
    ],
)
def test_whatever_an_audience_or_scope_holds_it_is_one_segment_of_a_normal_path(
    audience: str, scope: str
) -> None:
    path = path_of(audience, scope)
    assert is_normal(path)
    assert path.count("/") == 1 + bool(scope)
    assert read_pattern(pattern_of(audience, scope)) == (audience, scope)
    assert pattern_of(audience, scope).matches(path)


def test_no_two_tokens_are_one_path() -> None:
    texts = ["a/b", "a~2fb", "a", "b", "a%2fb", ".", "~2e", "~", "~~"]
    paths = {path_of(one, other) for one in texts for other in ["", *texts]}
    assert len(paths) == len(texts) * (len(texts) + 1)


def test_a_rule_names_scopes_of_its_group() -> None:
    assert refused(rule("from: [web], may: [mint], scopes: [report:reed]")) == (
        "VST0040",
        "Did you mean 'report:read'?",
    )


def test_a_rule_has_to_say_which_scopes_where_there_are_any() -> None:
    code, advice = refused(rule("from: [web], may: [mint]"))
    assert code == "VST0021"
    assert "scopes: [report:read, report:write]" in advice
    plain = rule("from: [web], may: [mint]").replace("scopes: [report:read, report:write]\n", "")
    assert [*map(read_pattern, group(plain).allow[0].paths)] == [("reports", "")]
    assert [*map(read_pattern, group(rule("from: [web], may: [mint], scopes: []")).allow[0].paths)] == [
        ("reports", "")
    ]


@pytest.mark.parametrize("lasts", ["59s", "16m", "1h", "0s"])
def test_a_token_lasts_from_one_to_fifteen_minutes(lasts: str) -> None:
    assert refused(rule(f"from: [web], may: [mint], scopes: [], lasts: {lasts}"))[0] == "VST0025"


def test_an_unknown_verb_is_refused_with_the_nearest() -> None:
    assert refused(rule("from: [web], may: [mnt], scopes: []"))[1] == "Did you mean 'mint'?"


@pytest.mark.parametrize("key", ["lasts: 5m", "binding: certificate", "may_act: web"])
def test_what_new_tokens_are_like_means_nothing_where_tokens_are_only_given(key: str) -> None:
    assert refused(rule(f"from: [reports], may: [exchange], {key}"))[0] == "VST0054"


def test_whose_tokens_are_admitted_has_to_be_said_and_is_said_of_nothing_else() -> None:
    assert refused(rule("from: [web], may: [admit], scopes: []"))[0] == "VST0021"
    assert refused(rule("from: [web], may: [mint], scopes: [], issuers: [corp]"))[0] == "VST0054"
    assert refused(rule("from: [web], may: [admit], scopes: [], issuers: [crop]")) == (
        "VST0040",
        "Did you mean 'corp'?",
    )
    assert refused(rule("from: [web], may: [admit], scopes: [], issuers: [internal]")) == (
        "VST0040",
        "Write may: [receive].",
    )


def test_a_denial_to_admit_is_of_every_issuer_unless_it_names_some() -> None:
    more = MESH + "  partner: {issuer: https://p.example, keys: https://p.example/jwks}\n"
    (every,) = accepted(read(denial("from: [web], may: [admit]"), more)).tokens["reports"].deny
    assert every.methods == {"admit:corp", "admit:partner"}
    (one,) = accepted(read(denial("from: [web], may: [admit], issuers: [corp]"), more)).tokens["reports"].deny
    assert one.methods == {"admit:corp"}


def test_who_may_act_is_one_identity() -> None:
    own = "from: [web], may: [mint], scopes: [], may_act: "
    assert refused(rule(f"{own}'role:contractors'"))[0] == "VST0025"
    assert refused(rule(f"{own}'spiffe://example.org/ns/**'"))[0] == "VST0025"
    assert refused(rule(f"{own}nobody"))[0] == "VST0040"
    text = rule(f"{own}'spiffe://example.org/ns/prod/sa/else'")
    assert group(text).terms["reports/a"].may_act == identity("else")


def test_a_condition_speaks_of_the_given_token_where_one_is_given() -> None:
    when = "when: 'token.subject == \"alice\"'"
    intent(rule(f"from: [orders], may: [receive], scopes: [], {when}"))
    assert refused(rule(f"from: [web], may: [mint], scopes: [], {when}"))[0] == "VST4041"
    assert refused(denial(f"from: [web], {when}"))[0] == "VST4041"
    assert (
        refused(rule("from: [web], may: [mint], scopes: [], when: 'request.path == \"/\"'"))[0] == "VST4041"
    )


def test_an_audience_is_in_one_group() -> None:
    other = "tokens: other\naudiences: [x, reports]\n"
    place, message, _ = only(read(**{"tokens/other.yaml": GROUP.replace("tokens: reports", "tokens: other")}))
    assert (place, message) == (
        "tokens/reports.yaml:3:13 VST0026",
        "the audience 'reports' is in the group 'other' already",
    )
    intent(**{"tokens/other.yaml": other.replace(", reports", "")})


def test_a_group_may_have_the_name_of_a_service_but_not_of_another_file() -> None:
    assert "reports" in intent().services
    assert refused(GROUP.replace("tokens: reports", "tokens: raports"))[0] == "VST0004"


def test_anyone_needs_a_reason_and_an_end() -> None:
    text = "from: anyone, may: [mint], scopes: []"
    assert refused(rule(text))[0] == "VST0070"
    intent(rule(f"{text}, reason: why, expires: 2099-01-01T00:00:00Z"))


def test_a_rule_that_changes_nothing_is_refused() -> None:
    wide = "  - {id: b, from: [web], may: [mint], scopes: [report:read]}\n"
    assert refused(GROUP.replace("deny:\n", f"{wide}deny:\n"))[0] == "VST0052"


def test_a_narrower_rule_that_gives_other_tokens_stands_before_the_wider_one() -> None:
    wide = "  - {id: wide, from: [web, orders], may: [mint], scopes: [report:read], lasts: 15m}\n"
    narrow = "  - {id: narrow, from: [web], may: [mint], scopes: [report:read], lasts: 2m}\n"
    assert len(group(f"{HEAD}allow:\n{narrow}{wide}").allow) == 2
    assert refused(f"{HEAD}allow:\n{wide}{narrow}")[0] == "VST0052"
    assert refused(f"{HEAD}allow:\n{narrow}{wide}".replace("15m", "2m"))[0] == "VST0052"


def test_an_environment_has_groups_of_its_own() -> None:
    files = {f"services/{name}.yaml": CALLER.format(name) for name in SERVICES}
    files |= {"environments/prod/mesh.yaml": MESH, "tokens/reports.yaml": GROUP}
    files |= {"environments/prod/tokens/reports.yaml": GROUP.replace("depth", "depth") + "depth: 2\n"}
    found = accepted(load_files({name: text.encode() for name, text in files.items()}, "prod"))
    assert found.tokens["reports"].depth == 2


# ------------------------------------------------------------------------- what is probably not meant


def told(text: str, payments: str = "") -> list[str]:
    more = {"services/payments.yaml": payments} if payments else {}
    found = intent(text, **more)
    problems = (*weaknesses(found, NOW), *hints(found))
    # That the group's denial denies nothing here, and that most tests use no role, is not what they are about.
    usual = ("no rule speaks of the role", "the rule reports/no-contractors")
    return [f"{each.code.code} {each.message}" for each in problems if not each.message.startswith(usual)]


def test_what_is_probably_not_meant_is_told() -> None:
    mint = "may: [mint], scopes: [report:read]"
    assert told(rule(f"from: [web], {mint}")) == []
    (wide,) = told(rule(f"from: ['spiffe://example.org/ns/**'], {mint}"))
    assert wide.startswith(
        "VST0083 the rule reports/a lets spiffe://example.org/ns/**, which is every service"
    )
    assert told(rule("from: ['spiffe://example.org/ns/**'], may: [exchange]")) == []
    denied = "deny: [{id: d, from: [web]}]\n"
    assert [each[:7] for each in told(rule(f"from: [web], {mint}") + denied)] == ["VST0071"]
    assert [each[:7] for each in told(rule(f"from: [orders], {mint}") + denied)] == ["VST0076"]


def test_a_group_of_no_service_says_for_whom_its_tokens_are() -> None:
    loaded = read(GROUP, **{"tokens/other.yaml": "tokens: other\naudiences: [other]\n"})
    found = [each for each in weaknesses(accepted(loaded), NOW) if each.where.file == "tokens/other.yaml"]
    (one,) = found
    assert (one.code.code, str(one.where)) == ("VST0085", "tokens/other.yaml:1:1")


@pytest.mark.parametrize(
    ("demand", "why"),
    [
        ("audience: reports, scopes: [report:read]", ""),
        ("audience: reports", ""),
        (
            "audience: report",
            "for 'report', and no group of tokens has that audience; did you mean 'reports'?",
        ),
        (
            "audience: reports, scopes: [report:raed]",
            "with the scope 'report:raed', which the group reports does not have; did you mean 'report:read'?",
        ),
        (
            "audience: reports, scopes: [report:read, report:write]",
            "for 'reports' with the scope 'report:write', and no rule of reports gives one",
        ),
    ],
)
def test_a_call_that_demands_a_token_which_nobody_can_have_is_told(demand: str, why: str) -> None:
    service = (
        "service: payments\nports: {http: {protocol: http}}\n"
        f"allow: [{{id: a, from: [web], token: {{issuer: internal, {demand}}}}}]\n"
    )
    found = told(GROUP, service)
    assert found == ([f"VST0084 the rule payments/a demands a token {why}"] if why else [])


def test_a_bound_token_has_to_be_had_by_the_caller() -> None:
    service = (
        "service: payments\nports: {http: {protocol: http}}\n"
        "allow: [{id: a, from: [audit], token: {issuer: internal, audience: reports}}]\n"
    )
    (one,) = told(GROUP, service)
    assert one.endswith("for 'reports', and no rule of reports gives one to any of its callers")
    assert told(GROUP, service.replace("audience: reports}", "audience: reports, bound: false}")) == []
    other = service.replace("issuer: internal, audience: reports", "issuer: corp, audience: whatever")
    assert told(GROUP, other) == []


# ---------------------------------------------------------------------------------------------- plans


def plan(before: str, after: str) -> list[str]:
    return [str(each) for each in difference(intent(before), intent(after)).access]


def test_a_plan_says_who_gains_and_who_loses_which_token() -> None:
    wider = GROUP.replace(
        "may: [mint], scopes: [report:read]", "may: [mint], scopes: [report:read, report:write]"
    )
    assert plan(GROUP, wider) == ["web gains mint of tokens for reports with report:write"]
    assert plan(wider, GROUP) == ["web loses mint of tokens for reports with report:write"]
    assert plan(GROUP, GROUP.replace("from: [orders]", "from: [orders, reports]")) == [
        "reports gains receive of tokens for reports with report:read"
    ]
    assert plan(GROUP, GROUP.replace("from: [reports]", "from: [orders]")) == [
        "orders gains exchange of tokens for reports",
        "reports loses exchange of tokens for reports",
    ]
    assert plan(GROUP, GROUP + "  - {id: no, from: [web], may: [admit]}\n") == [
        "web loses admit (corp) of tokens for reports without a scope if token.claims.email_verified == true"
    ]
    assert plan(GROUP, GROUP + "  - {id: no, from: [reports], scopes: [report:write]}\n") == [
        "reports loses exchange of tokens for reports with report:write"
    ]
    assert difference(intent(), intent()).is_empty
    first = difference(None, intent()).access
    assert [str(each) for each in first if each.target.tokens] == [
        "orders gains receive of tokens for reports with report:read",
        "reports gains exchange of tokens for reports",
        "web gains mint of tokens for reports with report:read",
        "web gains admit (corp) of tokens for reports without a scope if token.claims.email_verified == true",
    ]
    assert {each.target.subject for each in first} == {"tokens reports"}
    assert [*first[0].rules] == ["reports/chain"]


def test_a_plan_says_what_else_becomes_of_a_group() -> None:
    after = GROUP.replace("lasts: 5m", "lasts: 6m").replace(
        "audiences: [reports]", "audiences: [reports]\ndepth: 2"
    )
    (one,) = difference(intent(), intent(after)).settings
    assert (one.subject, str(one)) == ("tokens reports", "depth 4 → 2, web-own.lasts 5m → 6m")
    tried = "  - {id: s, from: [audit], may: [admit], issuers: [corp], scopes: [], mode: shadow}\n"
    shadow = GROUP.replace("deny:", f"{tried}deny:")
    found = difference(intent(), intent(shadow))
    assert found.access == ()
    told = {detail.key: detail.new for each in found.settings for detail in each.details}
    assert (told["may"], told["scopes"]) == ("admit (corp)", "no scope")


def test_what_has_ended_is_told() -> None:
    found = intent(rule("from: [web], may: [mint], scopes: [], expires: 2026-01-01T00:00:00Z"))
    assert [str(each.where) for each in expired(found, NOW)] == ["tokens/reports.yaml:5:5"]


# ---------------------------------------------------------------------------------------------- issuers


def test_the_token_service_of_the_mesh_is_an_issuer_whose_address_and_keys_the_server_knows() -> None:
    own = intent().mesh.issuers["internal"]
    assert (own.kind, own.issuer, own.keys, own.url) == (IssuerKind.TOKENS, "", "", "")
    said = MESH.replace("{keys: tokens}", "{issuer: https://x.example, keys: tokens}")
    assert refused(GROUP, said)[0] == "VST0027"
    assert refused(GROUP, MESH + "  again: {keys: tokens}\n")[0] == "VST0026"


def test_keys_at_an_address_are_fetched_by_the_server() -> None:
    corp = intent().mesh.issuers["corp"]
    assert (corp.kind, corp.issuer, corp.keys, corp.url) == (
        IssuerKind.URL,
        "https://login.example.com",
        "",
        "https://login.example.com/jwks",
    )
    intent(mesh=MESH.replace("https://login.example.com/jwks", "'http://127.0.0.1:8080/a?b=c'"))


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/jwks",
        "http://localhost.example.com/jwks",
        "https://user@login.example.com/jwks",
        "https://login.example.com/jwks#a",
        "https://login.example.com",
        "https:///jwks",
        "file:///etc/passwd",
        "https://127.0.0.1:99999999/jwks",
    ],
)
def test_an_address_that_keys_are_not_fetched_from_is_refused(url: str) -> None:
    mesh = MESH.replace("keys: https://login.example.com/jwks", f"keys: '{url}'")
    assert "VST0025" in {each.code.code for each in read(GROUP, mesh).problems}
