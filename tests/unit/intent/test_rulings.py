"""What is kept of answers: whatever no condition speaks of, until something ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from vestibule.intent import Intent, load_files
from vestibule.intent.rulings import Rulings
from vestibule.intent.token_policies import token_policy
from vestibule.intent.token_questions import paths_of
from vestibule.spiffe import SpiffeId
from vestibule.testing.clock import FakeClock

WEB, ORDERS = (SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{each}") for each in ("web", "orders"))
READ = paths_of("reports", ("read",))[1]
WRITE = paths_of("reports", ("write",))[1]
EARLY = 'request.time.getMinutes("UTC") < 30'


def rulings(*allow: Mapping[str, Any], clock: FakeClock | None = None) -> Rulings:
    mesh = {
        "mesh": "shop",
        "trust_domain": "example.org",
        "environment": "prod",
        "roles": {"staff": [{"who": "web", "until": "2026-01-01T01:00:00Z"}]},
    }
    group = {"tokens": "reports", "audiences": ["reports"], "scopes": ["read", "write"], "allow": list(allow)}
    files: dict[str, Any] = {"mesh.yaml": mesh, "tokens/reports.yaml": group}
    files |= {f"services/{name}.yaml": {"service": name} for name in ("reports", "orders", "web")}
    loaded = load_files({name: json.dumps(each).encode() for name, each in files.items()})
    assert loaded.intent is not None, [str(each.error) for each in loaded.problems]
    intent: Intent = loaded.intent
    return Rulings(lambda: intent, clock or FakeClock(), token_policy)


def rule(name: str, **keys: Any) -> dict[str, Any]:
    plain = {"id": name, "from": ["web"], "may": ["mint"], "scopes": ["read"]}
    return plain | {key.rstrip("_"): value for key, value in keys.items()}


def engine_asked(asked: Rulings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the engine is asked about from now on."""
    asked.ask(WEB, "mint", "/x")
    rules = asked._rules
    assert rules is not None
    decide, heard = rules.engine.decide, []

    def counted(call: Any) -> Any:
        heard.append(call.path)
        return decide(call)

    monkeypatch.setattr(rules.engine, "decide", counted)
    return heard


def test_a_condition_is_asked_every_time_and_what_it_does_not_speak_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = rulings(rule("plain"), rule("careful", scopes=["write"], when=EARLY))
    heard = engine_asked(asked, monkeypatch)
    for _ in range(3):
        assert asked.ask(WEB, "mint", READ).allowed
        assert asked.ask(WEB, "mint", WRITE).allowed
        assert not asked.ask(ORDERS, "mint", WRITE).allowed
        assert not asked.ask(WEB, "receive", WRITE).allowed
    assert sorted(heard) == sorted([READ, WRITE, WRITE, WRITE, WRITE, WRITE])


def test_a_condition_of_anyone_speaks_of_everybody() -> None:
    clock = FakeClock()
    asked = rulings(
        rule(
            "open",
            from_="anyone",
            reason="a test",
            expires="2026-12-31T00:00:00Z",
            when=EARLY,
        ),
        clock=clock,
    )
    assert asked.ask(ORDERS, "mint", READ).allowed
    clock.advance(timedelta(minutes=40))
    assert not asked.ask(ORDERS, "mint", READ).allowed


def test_a_condition_on_members_for_a_time_speaks_of_them() -> None:
    clock = FakeClock()
    asked = rulings(rule("staff", from_=["role:staff"], when=EARLY), clock=clock)
    assert asked.ask(WEB, "mint", READ).allowed
    clock.advance(timedelta(minutes=40))
    assert not asked.ask(WEB, "mint", READ).allowed
    clock.advance(timedelta(minutes=30))  # a new hour, and no member any more
    assert not asked.ask(WEB, "mint", READ).allowed
