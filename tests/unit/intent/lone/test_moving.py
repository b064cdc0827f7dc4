"""Files of lone sidecars as one intent: the same callers, the same calls."""

from __future__ import annotations

from pathlib import Path

from tests.unit.intent.lone.files import DOMAIN, LEDGER, ORDERS, lone

from vestibule.intent import load_files
from vestibule.intent.lone import Lone
from vestibule.intent.lone.codes import MEANS_OTHERWISE
from vestibule.intent.lone.files import LoneFile
from vestibule.intent.lone.moving import Moved, move
from vestibule.intent.model import Intent


def pair(orders: str = ORDERS, ledger: str = LEDGER) -> tuple[Lone, Lone]:
    return lone(orders), lone(ledger, "ledger.yaml")


def intent_of(moved: Moved) -> Intent:
    files = {name: each.encode() if isinstance(each, str) else each for name, each in moved.files.items()}
    loaded = load_files(files)
    assert loaded.intent is not None, [str(each.error) for each in loaded.problems]
    return loaded.intent


def codes(moved: Moved) -> list[str]:
    return [each.code.code for each in moved.problems]


def test_rules_identities_and_hosts_outside_are_those_of_the_files() -> None:
    orders, ledger = pair()
    moved = move([orders, ledger])
    assert codes(moved) == []
    intent = intent_of(moved)
    assert set(intent.services) == {"orders", "ledger"}
    for each in (orders, ledger):
        assert intent.services[each.name].spiffe_id == each.identity
        assert intent.services[each.name].allow == each.service.allow
        assert intent.services[each.name].deny == each.service.deny
    assert intent.services["ledger"].traffic.limits == ledger.service.traffic.limits
    outward = {rule.name: rule.callers for rule in intent.externals["stripe"].allow}
    assert len(outward) == 2
    assert {callers[0].id for callers in outward.values()} == {orders.identity, ledger.identity}


def test_what_callers_say_of_calls_the_called_service_says_in_the_mesh() -> None:
    ledger = intent_of(move(pair())).services["ledger"]
    assert str(ledger.traffic.timeout) == "0:00:02"
    assert [str(each.timeout) for each in ledger.traffic.routes] == ["0:00:10"]


def test_callers_that_do_not_agree_are_told_of_and_none_of_them_wins() -> None:
    other = lone(
        ORDERS.replace("orders", "billing")
        .replace("timeout: 2s", "timeout: 9s")
        .replace("readers", "clerks"),
        "billing.yaml",
    )
    ledger = LEDGER.replace("from: [orders], methods", f"from: [orders, '{DOMAIN}/billing'], methods")
    moved = move([*pair(ledger=ledger), other])
    assert "VST7343" in codes(moved)
    assert intent_of(moved).services["ledger"].traffic.timeout is None


def test_callers_without_a_file_keep_their_identities() -> None:
    [rule] = intent_of(move(pair())).services["orders"].allow
    assert f"{DOMAIN}/web" in {str(each.id) for each in rule.callers}


def test_sidecars_go_on_at_the_same_addresses() -> None:
    orders = ORDERS + "egress_port: 15005\n"
    commands = move(pair(orders.replace("protocol: http\n", "protocol: http\n    listen: 15010\n"))).commands
    assert commands["orders"] == (
        *("vestibule", "sidecar", "--service", "orders", "--app-port", "http=8080"),
        *("--ingress-address", "10.0.0.4", "--ingress-port", "http=8443"),
        *("--egress-port", "15005", "--upstream-port", "ledger=15010"),
    )


def test_a_machine_is_reached_where_its_callers_call_it() -> None:
    ledger = LEDGER.replace("10.0.0.5:8443", "0.0.0.0:8443")
    assert "10.0.0.5" in move(pair(ledger=ledger)).commands["ledger"]


def test_what_a_mesh_cannot_say_twice_has_to_agree() -> None:
    orders = lone(ORDERS)
    assert "VST7341" in codes(move([orders, lone(ORDERS, "again.yaml")]))
    differing = LEDGER.replace("api.stripe.com:443", "api.stripe.com:8443")
    moved = move(pair(ledger=differing))
    assert (codes(moved), dict(moved.files)) == (["VST7341"], {})
    assert codes(move([orders, lone(LEDGER + "mesh: shop\n", "ledger.yaml")])) == ["VST7341"]
    assert codes(move([orders, lone(LEDGER + "mesh: shop\n", "ledger.yaml")], mesh="shop")) == []


def test_identities_that_follow_no_pattern_are_refused() -> None:
    moved = move(pair(ORDERS.replace("sa/ledger", "db/ledger"), LEDGER.replace("sa/ledger", "db/ledger")))
    assert (codes(moved), dict(moved.files)) == (["VST7340"], {})


def test_other_patterns_than_the_usual_one_become_the_template_of_the_mesh() -> None:
    orders, ledger = (each.replace("/ns/prod/sa/", "/") for each in (ORDERS, LEDGER))
    intent = intent_of(move(pair(orders, ledger)))
    assert intent.mesh.identity_template == "/{service}"


def test_who_is_called_without_a_file_or_a_rule_is_told() -> None:
    assert codes(move([lone(ORDERS)])) == ["VST7342"]
    nobody = LEDGER.replace("from: [orders], methods: [GET]", f"from: ['{DOMAIN}/web'], methods: [GET]")
    assert "VST7344" in codes(move(pair(ledger=nobody)))


def test_another_name_for_a_service_is_told() -> None:
    moved = move(pair(ORDERS.replace("  ledger:\n", "  books:\n")))
    assert codes(moved) == ["VST7345"]
    assert "calls ledger by the name books" in moved.problems[0].message


def test_the_example_moves_as_it_is() -> None:
    folder = Path(__file__).parents[4] / "examples" / "no-mesh" / "sidecars"
    moved = move([LoneFile(each).valid() for each in sorted(folder.glob("*.yaml"))])
    assert codes(moved) == []
    assert set(intent_of(moved).services) == {"orders", "payments"}


def test_nobody_may_call_more_because_another_file_speaks_of_him() -> None:
    own = "allow: [{id: charge, methods: [GET]"
    assert own in LEDGER
    spoken_of = LEDGER.replace(own, "allow: [{id: refund, from: [orders], methods: [DELETE]")
    moved = move(pair(ledger=spoken_of))
    assert codes(moved).count(MEANS_OTHERWISE.code) == 1
    assert not moved.files


def test_nobody_gets_a_host_outside_that_his_file_does_not_have() -> None:
    without = ORDERS.partition("egress:")[0]
    spoken_of = LEDGER.replace(
        "allow: [{id: charge, methods: [GET]", "allow: [{id: charge, from: [orders, ledger]"
    )
    assert spoken_of != LEDGER
    moved = move(pair(without, spoken_of))
    assert MEANS_OTHERWISE.code in codes(moved)
