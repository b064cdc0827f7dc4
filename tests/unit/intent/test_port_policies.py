"""What of an intent decides about a port."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from tests.e2e.mesh_lab import intent_of, rule, service, spiffe_id

from vestibule.intent.port_policies import port_policy
from vestibule.policy import Condition

WHEN = Condition.parse("request.headers['x'] == '1'")


@pytest.mark.parametrize(
    ("caller", "known"),
    [
        ("web", ["web"]),
        ("spiffe://example.org/ns/prod/**", ["web", "orders"]),
        ("spiffe://example.org/ns/pro/**", []),
        ("anyone", ["web", "orders"]),
    ],
)
def test_labels_are_known_of_whom_rules_with_conditions_name(caller: str, known: list[str]) -> None:
    made = rule("app/r") if caller == "anyone" else rule("app/r", caller)
    app = service("app", replace(made, anyone=caller == "anyone", when=WHEN), rule("app/all", "orders"))
    others = [replace(service(name), labels={"env": "prod"}) for name in ("web", "orders")]
    intent = intent_of(app, *others, service("bare"))
    found = port_policy(intent, app, app.ports["http"])
    assert sorted(found.callers) == sorted(map(spiffe_id, known))
    assert not port_policy(intent, others[0], others[0].ports["http"]).callers


def test_ten_thousand_conditions_and_five_hundred_services_take_no_time() -> None:
    wide = "spiffe://example.org/ns/elsewhere/**"
    rules = [replace(rule(f"app/{n}", wide, f"x{n}", paths=f"/p{n}"), when=WHEN) for n in range(10_000)]
    app = service("app", *rules)
    intent = intent_of(app, *(replace(service(f"s{n}"), labels={"env": "prod"}) for n in range(500)))
    started = time.process_time()
    assert not port_policy(intent, app, app.ports["http"]).callers
    assert time.process_time() - started < 4
