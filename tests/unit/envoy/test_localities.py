"""Which instances are tried first, and which never."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.unit.envoy.test_compile import at, instance

from vestibule.envoy.localities import Place, assignment, depends_on_caller, places
from vestibule.intent.traffic import Locality, Nearness
from vestibule.records import Health, Instance

ZONE = Locality(prefer=Nearness.ZONE, failover=("us", "asia"))
REGION = Locality(prefer=Nearness.REGION)


def instances(**localities: str) -> tuple[Instance, ...]:
    return tuple(
        instance("payments", number, locality=locality.replace("_", "/"), id=name)
        for number, (name, locality) in enumerate(localities.items())
    )


EVERYWHERE = instances(a="eu_a", b="eu_b", c="us_a", d="asia", e="africa", f="")


@pytest.mark.parametrize(
    ("locality", "here", "expected"),
    [
        (None, "eu/a", {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0}),
        (Locality(), "eu/a", {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0}),
        (ZONE, "eu/a", {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 4}),
        (ZONE, "us/b", {"c": 0, "d": 1, "a": 2, "b": 2, "e": 2, "f": 2}),
        (ZONE, "", {"c": 0, "d": 1, "a": 2, "b": 2, "e": 2, "f": 2}),
        (REGION, "eu/a", {"a": 0, "b": 0, "c": 1, "d": 1, "e": 1, "f": 1}),
        (REGION, "mars", {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0}),
    ],
)
def test_the_nearest_come_first_without_gaps(
    locality: Locality | None, here: str, expected: Mapping[str, int]
) -> None:
    found = places(EVERYWHERE, "http", locality, here, versions=False)
    by_address = {each.address: each.priority for each in found}
    assert {each.id: by_address[each.ingress["http"]] for each in EVERYWHERE} == expected


def test_only_preferences_make_endpoints_depend_on_who_looks() -> None:
    assert [depends_on_caller(each) for each in (None, Locality(), REGION, ZONE)] == [
        False,
        False,
        True,
        True,
    ]


def test_the_order_of_registration_changes_nothing() -> None:
    forwards = assignment("x", places(EVERYWHERE, "http", ZONE, "eu/a", versions=True))
    backwards = assignment("x", places(EVERYWHERE[::-1], "http", ZONE, "eu/a", versions=True))
    assert forwards == backwards


def test_the_ill_and_the_leaving_are_marked_and_the_well_are_not() -> None:
    conditions = dict(zip("abcde", Health, strict=True))
    found = places(
        [instance("payments", n, id=name, health=each) for n, (name, each) in enumerate(conditions.items())],
        "http",
        None,
        "",
        versions=False,
    )
    (group,) = assignment("x", found).endpoints
    assert [each.health_status for each in group.lb_endpoints] == [0, 2, 0, 2, 3]
    assert not group.HasField("locality")


def test_versions_are_told_where_a_service_has_some() -> None:
    (group,) = assignment("x", [Place(0, "eu/a", at(1), version="v2")]).endpoints
    assert (group.locality.region, group.locality.zone) == ("eu", "a")
    assert group.lb_endpoints[0].metadata.filter_metadata["vestibule"]["version"] == "v2"
