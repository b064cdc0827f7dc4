"""Others' documents as files of an intent: nothing gets wider, what is left out is named, and it all validates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestibule.errors import CATALOGUE
from vestibule.intent import Intent, Severity, load_files
from vestibule.intent.importing import Imported, Source, import_documents
from vestibule.intent.port_policies import port_policy
from vestibule.policy import Call, Mode, decide
from vestibule.spiffe import SpiffeId

HERE = Path(__file__).parent
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: tcp-raw, port: 9}]}
"""
CALLER = "from: [{source: {principals: [cluster.local/ns/shop/sa/orders]}}]"


def imported(*documents: str, source: Source = Source.ISTIO) -> Imported:
    text = "---\n".join(documents)
    return import_documents(source, [("a.yaml", text)], trust_domain="example.org", environment="shop")


def intent_of(found: Imported) -> Intent:
    loaded = load_files({name: text.encode() for name, text in found.files.items()})
    errors = [str(each.error) for each in loaded.problems if each.severity is Severity.ERROR]
    assert not errors, (errors, dict(found.files))
    assert loaded.intent is not None
    return loaded.intent


def policy(spec: str, name: str = "p", **more: str) -> str:
    notes = f", annotations: {{{more['notes']}}}" if "notes" in more else ""
    return (
        f"\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {more.get('namespace', 'shop')}{notes}}}\nspec: {spec}\n"
    )


def rules_of(found: Imported, service: str = "web") -> list[str]:
    """Its rules, in short."""
    return [
        f"{','.join(map(str, each.callers))} {'|'.join(sorted(each.methods))} "
        f"{' '.join(map(str, each.paths))} {each.port}"
        for each in intent_of(found).services[service].allow
    ]


def said(found: Imported) -> str:
    return "\n".join(str(each.error) for each in found.problems)


@pytest.mark.parametrize(("name", "source"), [("istio", Source.ISTIO), ("gateway", Source.GATEWAY_API)])
def test_what_is_made_of_realistic_documents_and_what_is_told(name: str, source: Source) -> None:
    text = (HERE / f"{name}.yaml").read_text()
    found = import_documents(source, [(f"{name}.yaml", text)], trust_domain="example.org", environment="shop")
    made = "".join(f"# {file}\n{content}\n" for file, content in found.files.items())
    assert made == (HERE / f"{name}.expected").read_text()
    assert said(found) + "\n" == (HERE / f"{name}.findings").read_text()
    intent_of(found)


def test_the_page_lists_every_code() -> None:
    page = (HERE.parents[3] / "docs" / "import.md").read_text()
    assert set(re.findall(r"\[(VST[0-9]{4})\]", page)) == {each for each in CATALOGUE if each[:6] == "VST009"}


# ------------------------------------------------------------------------------------- authorization


def test_a_policy_without_rules_allows_nothing() -> None:
    assert rules_of(imported(SERVICE, policy("{}"))) == []
    assert rules_of(imported(SERVICE, policy("{selector: {matchLabels: {app: web}}}"))) == []


def test_a_rule_that_allows_everybody_everything_is_dropped_and_named() -> None:
    found = imported(SERVICE, policy("{rules: [{}]}"))
    assert rules_of(found) == []
    assert "VST0091" in said(found)


def test_what_istio_means_by_a_prefix_is_what_is_allowed() -> None:
    found = imported(
        SERVICE, policy(f"{{rules: [{{{CALLER}, to: [{{operation: {{paths: [/a/*], ports: ['80']}}}}]}}]}}")
    )
    assert rules_of(found) == ["spiffe://example.org/ns/shop/sa/orders  /a/ /a/{any}/** http"]


def test_items_are_alternatives_and_the_keys_of_one_item_all_hold() -> None:
    two = "to: [{operation: {methods: [GET]}}, {operation: {paths: [/x]}}]"
    found = imported(SERVICE, policy(f"{{rules: [{{{CALLER}, {two}}}]}}"))
    assert [each.split(" ", 1)[1] for each in rules_of(found)] == ["GET  http", " /x http"]
    assert "speaks TCP" in said(found)
    both = "from: [{source: {principals: [cluster.local/ns/shop/sa/orders], namespaces: [other]}}]"
    assert rules_of(imported(SERVICE, policy(f"{{rules: [{{{both}}}]}}"))) == []


@pytest.mark.parametrize(
    "rule",
    [
        "{to: [{operation: {methods: [GET]}}]}",
        "{from: [{source: {notPrincipals: [x]}}]}",
        "{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {principals: ['*/sa/web']}}]}",
        "{from: [{}]}",
        f"{{{CALLER}, when: [{{key: x, values: [y]}}]}}",
        f"{{{CALLER}, to: [{{operation: {{notPaths: ['/{{*}}']}}}}]}}",
        f"{{{CALLER}, to: [{{operation: {{hosts: [x], methods: [GET]}}}}]}}",
        f"{{{CALLER}, to: [{{operation: {{paths: ['*.h*ml']}}}}]}}",
        f"{{{CALLER}, to: [{{operation: {{methods: [BREW]}}}}]}}",
        f"{{{CALLER}, to: [{{operation: {{ports: ['81']}}}}]}}",
        f"{{{CALLER}, to: [{{operation: {{}}}}]}}",
        f"{{{CALLER}, something: new}}",
    ],
)
def test_a_rule_of_which_a_part_cannot_be_expressed_is_dropped_whole_and_named(rule: str) -> None:
    ports = policy("{selector: {matchLabels: {app: web}}, rules: [" + rule + "]}")
    found = imported(SERVICE.replace(", {name: tcp-raw, port: 9}", ""), ports)
    if "'81'" in rule:  # which makes the port known
        return
    assert rules_of(found) == []
    assert "VST0091" in said(found)


@pytest.mark.parametrize(
    ("denial", "kept"),
    [
        ("{action: DENY}", 2),
        ("{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}", 0),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], hosts: [x]}}]}]}", 1),
        ("{action: DENY, rules: [{when: [{key: source.ip, values: [10.0.0.1]}]}]}", 0),
        ("{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {methods: [POST]}}]}]}", 1),
        ("{action: AUDIT, rules: [{}]}", 2),
        ("{action: DENY, selector: {matchLabels: {app: web, version: v1}}, rules: [{}]}", 0),
        ("{action: DENY, selector: {matchLabels: {app: other}}, rules: [{}]}", 2),
    ],
)
def test_what_a_policy_that_denies_may_touch_is_dropped(denial: str, kept: int) -> None:
    two = "to: [{operation: {methods: [GET]}}, {operation: {methods: [POST]}}]"
    allow = policy(f"{{rules: [{{{CALLER}, {two}}}]}}", "a")
    for documents in ((allow, policy(denial, "d")), (policy(denial, "d"), allow)):
        assert len(rules_of(imported(SERVICE, *documents))) == kept


WEB = SERVICE.replace(", {name: tcp-raw, port: 9}", "")
EVERYTHING = f"{{rules: [{{{CALLER}}}]}}"


def allows(found: Imported, method: str = "GET", path: str = "/x", **headers: str) -> bool:
    """Whether orders may make a call to web."""
    intent = intent_of(found)
    web, (port,) = intent.services["web"], intent.services["web"].ports.values()
    orders = SpiffeId.parse("spiffe://example.org/ns/shop/sa/orders")
    call = Call(caller=orders, port=port.name, method=method, path=path, headers=headers)
    return decide(port_policy(intent, web, port), call).allowed


@pytest.mark.parametrize(
    ("rule", "denied", "left"),
    [
        ("{}", ["GET /x"], []),
        (
            "{to: [{operation: {paths: [/admin], methods: [GET]}}]}",
            ["GET /admin"],
            ["PUT /admin", "GET /admin/a"],
        ),
        (
            "{to: [{operation: {paths: [/admin/*]}}]}",
            ["GET /admin/", "GET /admin/a/b"],
            ["GET /admin", "GET /admins"],
        ),
        ("{to: [{operation: {paths: [/admin*]}}]}", ["GET /admin", "GET /admins"], ["GET /a"]),
        ("{to: [{operation: {paths: ['*.php', /a]}}]}", ["GET /x.php", "GET /a"], ["GET /x.html"]),
        ("{to: [{operation: {notPaths: [/healthz, /pub*]}}]}", ["GET /x"], ["GET /healthz", "GET /public"]),
        ("{to: [{operation: {notMethods: [GET]}}]}", ["PUT /x", "POST /x"], ["GET /x"]),
        ("{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}", [], ["GET /x"]),
        ("{from: [{source: {principals: ['*']}}]}", ["GET /x"], []),
        ("{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/other]}}]}", ["GET /x"], []),
        ("{from: [{source: {notNamespaces: [shop]}}]}", [], ["GET /x"]),
        (
            "{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [PUT]}}]}",
            ["PUT /x"],
            ["GET /x"],
        ),
        ("{when: [{key: source.namespace, notValues: [other]}]}", ["GET /x"], []),
        ("{when: [{key: source.principal, values: ['cluster.local/ns/shop/*']}]}", ["GET /x"], []),
    ],
)
def test_what_a_policy_denies_is_denied_and_nothing_else(
    rule: str, denied: list[str], left: list[str]
) -> None:
    found = imported(WEB, policy(EVERYTHING, "a"), policy(f"{{action: DENY, rules: [{rule}]}}", "d"))
    assert [each for each in denied if allows(found, *each.split())] == []
    assert [each for each in left if not allows(found, *each.split())] == []


@pytest.mark.parametrize(
    ("values", "matched", "unmatched"),
    [
        ("values: [a, 'b*', '*c']", ["a", "bx", "xc"], ["x", ""]),
        ("values: ['*']", ["a", ""], []),
        ("notValues: [a]", ["b", ""], ["a"]),
    ],
)
@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
def test_conditions_on_headers_are_carried_over(
    values: str, matched: list[str], unmatched: list[str], action: str
) -> None:
    when = f"when: [{{key: 'request.headers[X-Tenant]', {values}}}]"
    documents = [policy(f"{{action: {action}, rules: [{{{CALLER}, {when}}}]}}", "d")]
    documents += [policy(EVERYTHING, "a")] if action == "DENY" else []
    found = imported(WEB, *documents)
    for value in (*matched, *unmatched):
        assert allows(found, **{"x-tenant": value}) is ((value in matched) is (action == "ALLOW"))
    absent = "notValues" in values
    assert allows(found) is (absent is (action == "ALLOW"))


@pytest.mark.parametrize("key", ["request.auth.claims[group]", "request.headers[authorization]", "source.ip"])
def test_a_condition_that_cannot_be_expressed_allows_nothing_and_is_named(key: str) -> None:
    when = f"when: [{{key: '{key}', values: [a]}}]"
    found = imported(WEB, policy(f"{{rules: [{{{CALLER}, {when}}}]}}"))
    assert rules_of(found) == []
    assert "VST0091" in said(found)


def test_a_denial_that_our_validator_refuses_takes_all_that_is_allowed() -> None:
    many = "&".join(f"x{number}" for number in range(900))
    when = f"when: [{{key: 'request.headers[x-tenant]', values: ['{many}']}}]"
    denial = policy(f"{{action: DENY, rules: [{{{when}}}]}}", "d")
    assert rules_of(imported(WEB, policy(EVERYTHING, "a"), denial)) == []


def test_a_trial_is_tried_out_here_too_and_neither_allows_nor_denies() -> None:
    notes = "'istio.io/dry-run': 'true'"
    found = imported(WEB, policy(EVERYTHING, notes=notes))
    assert not allows(found)
    assert [rule.mode for rule in intent_of(found).services["web"].allow] == [Mode.SHADOW]
    denial = policy("{action: DENY, rules: [{}]}", "d", notes=notes)
    found = imported(WEB, policy(EVERYTHING), denial)
    assert allows(found)
    assert [rule.mode for rule in intent_of(found).services["web"].deny] == [Mode.SHADOW]
    custom = policy("{action: CUSTOM, rules: [{}]}", "d", notes=notes)
    assert "trial" in said(imported(WEB, policy(EVERYTHING), custom))


def test_a_policy_of_the_root_namespace_is_for_all_and_one_of_another_for_none_of_these() -> None:
    spec = f"{{rules: [{{{CALLER}}}]}}"
    assert len(rules_of(imported(SERVICE, policy(spec, namespace="istio-system")))) == 2
    assert rules_of(imported(SERVICE, policy(spec, namespace="elsewhere"))) == []


def test_ports_are_those_at_which_workloads_listen() -> None:
    two = SERVICE.replace(
        "port: 80}, {name: tcp-raw, port: 9}",
        "port: 80, targetPort: 8080}, {name: http-b, port: 8080, targetPort: 1}",
    )
    by_port = "to: [{operation: {ports: ['8080']}}]"
    assert [
        each[-4:] for each in rules_of(imported(two, policy(f"{{rules: [{{{CALLER}, {by_port}}}]}}")))
    ] == ["http"]
    named = two.replace("targetPort: 1", "targetPort: named")
    assert rules_of(imported(named, policy(f"{{rules: [{{{CALLER}, {by_port}}}]}}"))) == []


def test_a_service_is_found_by_the_label_of_its_workloads_not_by_its_name() -> None:
    other = SERVICE.replace("spec: {", "spec: {selector: {app: front}, ")
    for label, number in (("front", 2), ("web", 0)):
        spec = f"{{selector: {{matchLabels: {{app: {label}}}}}, rules: [{{{CALLER}}}]}}"
        assert len(rules_of(imported(other, policy(spec)))) == number


def test_services_of_other_namespaces_do_not_get_identities_of_this_one() -> None:
    found = imported(SERVICE, SERVICE.replace("web", "bank").replace("namespace: shop", "namespace: money"))
    assert set(intent_of(found).services) == {"web"}
    assert "bank is of the namespace money" in said(found)


def test_a_denial_in_a_namespace_without_services_is_taken_for_one_of_the_root() -> None:
    allow = policy(f"{{rules: [{{{CALLER}}}]}}")
    assert (
        rules_of(imported(SERVICE, allow, policy("{action: DENY, rules: [{}]}", "d", namespace="root"))) == []
    )


def test_a_document_that_cannot_be_read_ends_the_import_since_it_may_have_denied_something() -> None:
    allow = policy(f"{{rules: [{{{CALLER}}}]}}")
    for broken in ("\nkind: [", "\nkind: AuthorizationPolicy\n", "\n&a {kind: x}\n"):
        found = imported(SERVICE, allow, broken)
        assert not found.files
        assert "VST0094" in said(found)


def test_tokens_that_nobody_looks_at_allow_nothing() -> None:
    token = policy("{}", "t").replace("AuthorizationPolicy", "RequestAuthentication")
    found = imported(SERVICE, policy(f"{{rules: [{{{CALLER}}}]}}"), token)
    assert rules_of(found) == []


def test_each_finding_names_file_and_line_and_fields_are_named_one_by_one() -> None:
    rule = (
        "\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: shop}\n"
    )
    found = imported(SERVICE, rule + "spec:\n  host: web\n  exportTo: [x]\n  workloadSelector: {a: b}\n")
    lines = said(found).splitlines()
    assert next(each for each in lines if "spec.exportTo has no counterpart" in each).startswith(
        "a.yaml:13:3: VST0090"
    )
    assert any("spec.workloadSelector" in each for each in lines)


# ------------------------------------------------------------------------------ any documents at all

WORD = st.sampled_from(
    ["web", "orders", "v1", "v2", "/a", "/a/*", "/", "*", "GET", "POST", "5s", "0s", "Exact", "", "80", "x y"]
)
LEAF: st.SearchStrategy[Any] = WORD | st.integers(-1, 101) | st.booleans() | st.none()
NAMES = """
host hosts http match uri exact prefix regex headers route destination subset weight rewrite redirect
authority timeout retries attempts perTryTimeout retryOn mirror mirrors percentage value subsets name labels version
trafficPolicy connectionPool tcp maxConnections outlierDetection consecutive5xxErrors interval selector matchLabels
app action rules from to source principals namespaces operation methods paths ports when number protocol location
endpoints address mtls mode parentRefs kind matches path type backendRefs port filters requestRedirect urlRewrite
hostname replacePrefixMatch timeouts request method service spec queryParams scheme redirectCode statusCode
"""
KEYS = st.sampled_from(NAMES.split())
TREE: st.SearchStrategy[Any] = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=25
)
KINDS = {
    "networking.istio.io/v1": ("VirtualService", "DestinationRule", "ServiceEntry"),
    "security.istio.io/v1": ("AuthorizationPolicy", "PeerAuthentication"),
    "gateway.networking.k8s.io/v1": ("HTTPRoute", "GRPCRoute"),
    "v1": ("Service",),
}


def _document(version: str, kind: str, name: str, spec: Any) -> str:
    return json.dumps(
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}
    )


ANY_DOCUMENT = st.sampled_from(
    [(version, kind) for version, kinds in KINDS.items() for kind in kinds]
).flatmap(
    lambda named: st.builds(
        lambda name, spec: _document(*named, name, spec),
        WORD.filter(bool),
        st.dictionaries(KEYS, TREE, max_size=5),
    )
)
ROUTE = st.fixed_dictionaries(
    {"route": st.lists(st.fixed_dictionaries({"destination": st.fixed_dictionaries({"host": WORD, "subset": WORD}),
                                              "weight": st.integers(0, 100)}), max_size=3)},
    optional={"match": st.lists(st.fixed_dictionaries({}, optional={"uri": st.dictionaries(
        st.sampled_from(["exact", "prefix"]), WORD, max_size=1)}), max_size=3), "timeout": WORD, "rewrite": TREE,
        "retries": st.fixed_dictionaries({"attempts": st.integers(-1, 99)}, optional={"perTryTimeout": WORD})},
)  # fmt: skip
LIKELY = st.builds(
    lambda routes: _document(
        "networking.istio.io/v1", "VirtualService", "web", {"hosts": ["web"], "http": routes}
    ),
    st.lists(ROUTE, max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ANY_DOCUMENT | LIKELY, min_size=1, max_size=4), st.sampled_from(Source))
def test_whatever_is_imported_validates(documents: list[str], source: Source) -> None:
    found = import_documents(source, [("a.yaml", "\n---\n".join(documents))], environment="shop")
    if found.files:
        intent_of(found)
