from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk import (
    SpiffeId,
    authorize_any_of,
    authorize_ids,
    authorize_if,
    authorize_member_of,
    authorize_paths,
)
from vestibule.sdk.authorizers import is_wanted

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
PAYMENTS = SpiffeId.parse("spiffe://example.org/payments")
ELSEWHERE = SpiffeId.parse("spiffe://example.com/orders")


def test_ids_are_exact() -> None:
    authorize = authorize_ids(ORDERS, "spiffe://EXAMPLE.org/payments")
    assert authorize(ORDERS)
    assert authorize(PAYMENTS)
    assert not authorize(ELSEWHERE)
    assert not authorize(SpiffeId.parse("spiffe://example.org/orders/below"))


def test_members_are_those_of_one_trust_domain() -> None:
    authorize = authorize_member_of("example.org")
    assert authorize(ORDERS)
    assert not authorize(ELSEWHERE)


def test_an_authorizer_says_whom_it_wants() -> None:
    assert (
        str(authorize_ids(PAYMENTS, ORDERS)) == "spiffe://example.org/orders, spiffe://example.org/payments"
    )
    assert str(authorize_member_of("example.org")) == "members of example.org"


def test_an_authorizer_of_nobody_and_of_nonsense_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="refuse everybody"):
        authorize_ids()
    with pytest.raises(VestibuleError):
        authorize_ids("example.org/orders")
    with pytest.raises(VestibuleError):
        authorize_member_of("not a domain")


@pytest.mark.parametrize(
    ("pattern", "wanted", "unwanted"),
    [
        (
            "spiffe://example.org/ns/*/sa/payments",
            ["/ns/prod/sa/payments", "/ns/dev/sa/payments"],
            [
                "/ns/sa/payments",
                "/ns/a/b/sa/payments",
                "/ns/prod/sa/payments/x",
                "/ns/prod/sa/pay",
                "/ns/prod/sa",
            ],
        ),
        ("spiffe://example.org/ns/prod/**", ["/ns/prod", "/ns/prod/sa/a"], ["/ns/production", "/ns"]),
        ("spiffe://example.org/*/**", ["/a", "/a/b"], []),
        ("spiffe://example.org/**", ["/a", "/a/b"], []),
        ("SPIFFE://EXAMPLE.org/Orders", ["/Orders"], ["/orders"]),
    ],
)
def test_paths_are_compared_segment_by_segment(pattern: str, wanted: list[str], unwanted: list[str]) -> None:
    authorize = authorize_paths(pattern)
    for path in wanted:
        assert authorize(SpiffeId.parse(f"spiffe://example.org{path}"))
        assert not authorize(SpiffeId.parse(f"spiffe://example.com{path}"))
    for path in unwanted:
        assert not authorize(SpiffeId.parse(f"spiffe://example.org{path}"))


@pytest.mark.parametrize(
    "pattern",
    [
        "example.org/ns/*",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://*/ns/a",
        "spiffe://example.org/ns/pay*",
        "spiffe://example.org/**/a",
        "spiffe://example.org/a//b",
        "spiffe://example.org/a/../b",
    ],
)
def test_a_pattern_that_means_nothing_certain_cannot_be_made(pattern: str) -> None:
    with pytest.raises(VestibuleError):
        authorize_paths(pattern)


def test_authorizers_are_put_together() -> None:
    authorize = authorize_any_of(authorize_ids(ORDERS), authorize_member_of("example.com"))
    assert authorize(ORDERS)
    assert authorize(ELSEWHERE)
    assert not authorize(PAYMENTS)
    assert str(authorize) == "spiffe://example.org/orders, members of example.com"


def test_a_function_says_yes_or_it_says_no() -> None:
    authorize = authorize_if(lambda each: each.path.endswith("s"), "those in the plural")
    assert authorize(ORDERS)
    assert not authorize(SpiffeId.parse("spiffe://example.org/order"))
    assert str(authorize) == "those in the plural"

    async def later(_: SpiffeId) -> bool:
        return False

    forgotten = later(ORDERS)
    assert not authorize_if(lambda _: forgotten, "nobody")(ORDERS)  # type: ignore[arg-type, return-value]
    forgotten.close()


@pytest.mark.parametrize("make", [authorize_paths, authorize_any_of])
def test_nothing_authorizes_nobody(make: object) -> None:
    with pytest.raises(ValueError, match="refuse everybody"):
        make()  # type: ignore[operator]


def test_what_is_wanted_can_be_read() -> None:
    assert str(authorize_paths("spiffe://example.org/ns/*/**")) == "spiffe://example.org/ns/*/**"


async def _undecided(spiffe_id: SpiffeId) -> bool:
    return spiffe_id == ORDERS


@pytest.mark.parametrize("said", [_undecided, lambda _: "yes", lambda _: 1, lambda _: None])
def test_what_is_not_exactly_yes_is_no(said: Any) -> None:
    assert not is_wanted(said, ORDERS)
    assert not is_wanted(authorize_any_of(said), ORDERS)
    assert not is_wanted(authorize_any_of(said, said), ORDERS)
    assert not authorize_if(said, "somebody")(ORDERS)
    assert is_wanted(lambda each: each == ORDERS, ORDERS)
