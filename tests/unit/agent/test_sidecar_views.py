"""What an agent remembers of services, so that logs can name places and commits while the server is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vestibule.agent.sidecars import ViewCache
from vestibule.agent.sidecars.views import MOST_VERSIONS
from vestibule.records import ServiceView
from vestibule.spiffe import SpiffeId

PAYMENTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")
VIEW = ServiceView(
    service="payments",
    spiffe_id=PAYMENTS,
    ports=(),
    upstreams=(),
    intent_version="v1",
    intent_commit="c1",
    mesh="shop",
    environment="prod",
    places={"payments/no-contractors": "services/payments.yaml:14"},
)


def test_places_and_commits_outlive_the_agent(tmp_path: Path) -> None:
    views = ViewCache(tmp_path / "views.json")
    views.put(VIEW)
    again = ViewCache(tmp_path / "views.json")
    again.load()
    assert again.get(PAYMENTS) == VIEW
    assert again.commit_of("v1") == "c1"
    assert again.place_of(PAYMENTS, "v1", "payments/no-contractors") == "services/payments.yaml:14"
    assert again.place_of(PAYMENTS, "v1", "payments/other") == ""


def test_a_proxy_that_is_behind_is_told_of_by_what_it_has(tmp_path: Path) -> None:
    views = ViewCache(tmp_path / "views.json")
    for number in range(1, MOST_VERSIONS + 2):
        places = {"payments/no-contractors": f"services/payments.yaml:{number}"}
        views.put(replace(VIEW, intent_version=f"v{number}", places=places))
    assert views.place_of(PAYMENTS, "v2", "payments/no-contractors") == "services/payments.yaml:2"
    assert views.place_of(PAYMENTS, "v1", "payments/no-contractors") == "", "not for ever"
