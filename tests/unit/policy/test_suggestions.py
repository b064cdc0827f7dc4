"""Rules that recorded calls would have needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vestibule.policy.suggestions import MOST_LITERALS, Seen, suggest


def said(*calls: str) -> list[str]:
    seen = [
        Seen(caller=who, method=method, path=path) for who, method, path in (each.split() for each in calls)
    ]
    return [
        f"{','.join(each.callers)}: {','.join(each.methods)} {' '.join(map(str, each.paths))} ({each.count})"
        for each in suggest(seen)
    ]


def test_nothing_that_was_not_called_is_allowed() -> None:
    assert said("orders POST /v1/charges", "orders POST /v1/charges", "orders GET /v1/health") == [
        "orders: POST /v1/charges (2)",
        "orders: GET /v1/health (1)",
    ]


def test_paths_that_are_called_alike_share_a_rule() -> None:
    assert said("orders GET /a", "orders GET /b") == ["orders: GET /a /b (2)"]


def test_callers_who_need_the_same_share_a_rule() -> None:
    assert said("orders GET /a", "reports GET /a") == ["orders,reports: GET /a (2)"]


def test_identifiers_become_a_placeholder() -> None:
    calls = (
        "orders GET /v1/orders/17/lines",
        "orders GET /v1/orders/18/lines",
        "orders GET /v1/orders/5a3c0d7e-1b2f-4c3d-8e9f-001122334455/lines",
        "orders GET /v1/orders/ord_12f9/lines",
    )
    assert said(*calls) == ["orders: GET /v1/orders/{id}/lines (4)"]


def test_a_word_beside_identifiers_is_one_of_them() -> None:
    assert said("a GET /v1/orders/17", "a GET /v1/orders/latest") == ["a: GET /v1/orders/{id} (2)"]


def test_many_words_in_one_place_become_a_placeholder_and_few_do_not() -> None:
    few = [f"a GET /users/n{'x' * number}/mail" for number in range(MOST_LITERALS)]
    assert len(said(*few)[0].split("/users/")) == MOST_LITERALS + 1
    assert said(*few, "a GET /users/one-more/mail") == [f"a: GET /users/{{id}}/mail ({MOST_LITERALS + 1})"]


def test_the_first_segment_is_never_given_away() -> None:
    many = [f"a GET /area{'x' * number}" for number in range(MOST_LITERALS + 5)]
    assert "{" not in said(*many)[0].split(" ", 2)[2]


def test_paths_that_are_not_normal_are_left_out() -> None:
    assert said("a GET /a/../b", "a GET /a") == ["a: GET /a (1)"]


def test_percent_encoding_becomes_a_placeholder() -> None:
    assert said("a GET /files/na%20me") == ["a: GET /files/{id} (1)"]


def test_connections_need_a_caller_alone() -> None:
    (found,) = suggest([Seen(caller="a", method=None, path=None, count=3)])
    assert (found.callers, found.methods, found.paths, found.count) == (("a",), (), (), 3)


PARTS = st.sampled_from(["a", "b", "17", "x1", "deadbeef99", "", "caf%C3%A9"])
PATHS = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map(lambda parts: "/" + "/".join(parts))
    .filter(lambda p: "//" not in p)
)


@given(
    st.lists(
        st.builds(
            Seen,
            caller=st.sampled_from(["x", "y"]),
            method=st.sampled_from(["GET", "POST"]),
            path=PATHS,
            count=st.integers(1, 3),
        ),
        max_size=30,
    )
)
def test_every_recorded_call_is_allowed_to_its_caller_by_what_is_suggested(calls: list[Seen]) -> None:
    suggested = suggest(calls)
    for call in calls:
        assert call.path is not None
        assert any(
            call.caller in each.callers
            and call.method in each.methods
            and any(pattern.matches(call.path) for pattern in each.paths)
            for each in suggested
        )
    assert sum(each.count for each in suggested) == sum(each.count for each in calls)
