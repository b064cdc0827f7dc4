"""What denied callers are told, where their callee tells anything."""

from __future__ import annotations

from dataclasses import replace

from tests.e2e.mesh_lab import intent_of, rule, service

from vestibule.envoy import replies
from vestibule.envoy.compile import Compiler
from vestibule.envoy.told import HEADER, MOST, Told, place_of
from vestibule.envoy.world import World
from vestibule.errors import Where
from vestibule.intent.model import DenyDetail
from vestibule.policy import Effect
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ROUTES, ProxyKey

WHERE = Where(file="services/payments.yaml", line=14, column=5)
DENYING = replace(rule("payments/no-contractors", "web"), effect=Effect.DENY, where=WHERE)
INSTANCE = Instance(
    id="payments-1",
    service="payments",
    spiffe_id=service("payments").spiffe_id,
    agent_id=SpiffeId.parse("spiffe://example.org/spire/agent/a"),
    ingress={"http": Address(host="127.0.0.1", port=15001)},
    apps={"http": Address(host="127.0.0.1", port=8080)},
)
PAYMENTS = replace(service("payments"), deny=(DENYING,), where=replace(WHERE, line=1))


def test_a_route_tells_rules_that_deny_by_what_envoy_says_of_a_denial() -> None:
    told = Told.of(PAYMENTS, "abc", "4f2a")
    assert told.metadata(centrally=False) == {
        "intent_version": "abc",
        "revision": "4f2a",
        "file": "services/payments.yaml",
        "denials": {
            "rbac_access_denied_matched_policy[payments/no-contractors]": [
                "payments/no-contractors",
                "services/payments.yaml:14",
            ]
        },
    }
    assert set(told.metadata(centrally=True)["denials"]) > {"payments/no-contractors"}


def test_without_a_repository_the_version_stands_for_the_commit() -> None:
    assert Told.of(PAYMENTS, "abc", "").metadata(centrally=False)["revision"] == "abc"
    assert Told.of(None, "abc", "").metadata(centrally=False)["file"] == "-"


def test_ten_thousand_rules_that_deny_make_no_larger_routes_than_the_first_few_hundred() -> None:
    many = tuple(replace(DENYING, name=f"payments/r{number}") for number in range(10_000))
    denials = Told.of(replace(PAYMENTS, deny=many), "abc", "").metadata(centrally=False)["denials"]
    assert len(denials) == MOST


def test_a_files_name_says_nothing_else_in_a_header() -> None:
    hostile = Where(file="services/a b\r\nx: y%CEL(1)%\u00e9.yaml", line=3)
    assert place_of(hostile) == "services/a%20b%0D%0Ax:%20y%25CEL%281%29%25%C3%A9.yaml:3"


def test_a_commit_that_only_moves_lines_is_told_to_those_who_tell_of_lines() -> None:
    def world(line: int, detail: DenyDetail) -> World:
        moved = replace(DENYING, where=replace(WHERE, line=line))
        changed = replace(PAYMENTS, deny=(moved,), deny_detail=detail)
        intent = intent_of(changed, version=f"v{line}")
        return World(intent=intent, instances=(INSTANCE,), commit=f"c{line}")

    def routes(detail: DenyDetail) -> list[bytes]:
        compiler, before, found = Compiler(), None, []
        for line in (14, 15):
            compiler.take(world(line, detail))
            before = compiler.compile(ProxyKey(INSTANCE.spiffe_id, INSTANCE.id), before)
            found.append(before.snapshot.of_type(ROUTES)["ingress/http"].body)
        return found

    old, new = routes(DenyDetail.CALLER)
    assert b"services/payments.yaml:14" in old
    assert b"services/payments.yaml:15" in new
    assert b"c15" in new
    old, new = routes(DenyDetail.CODE)
    assert old == new
    assert b"services/payments.yaml" not in new


def test_nobody_is_told_more_where_the_service_does_not_say_so() -> None:
    silent = replies.ingress("payments", tell_rule=False, plaintext=True)
    assert HEADER not in str(silent)
    telling = replies.ingress("payments", tell_rule=True, plaintext=True)
    assert str(telling).count(HEADER) == 12
