"""Records of one request become a tree of calls, with the time that each part took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.observe.hops import Hop, join

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def spiffe(service: str) -> str:
    return f"spiffe://example.org/ns/prod/sa/{service}" if service else ""


def record(
    direction: Direction,
    source: str,
    destination: str,
    at: float,
    lasts: float,
    *,
    request: str = "r",
    **more: object,
) -> AccessRecord:
    reporter = source if direction is Direction.OUTBOUND else destination
    facts = {"verdict": Verdict.ALLOWED, "status": 200, "layer": Layer.HTTP, **more}
    return AccessRecord(
        time=NOW + timedelta(milliseconds=at),
        direction=direction,
        reporter_service=reporter,
        reporter_spiffe_id=spiffe(reporter),
        reporter_instance=f"{reporter}-1",
        source_spiffe_id=spiffe(source),
        destination_service=destination,
        request_id=request,
        duration_ms=lasts,
        **facts,  # type: ignore[arg-type]
    )


def out(source: str, destination: str, at: float, lasts: float, **more: object) -> AccessRecord:
    return record(Direction.OUTBOUND, source, destination, at, lasts, **more)  # type: ignore[arg-type]


def into(source: str, destination: str, at: float, lasts: float, **more: object) -> AccessRecord:
    return record(Direction.INBOUND, source, destination, at, lasts, **more)  # type: ignore[arg-type]


def shape(hops: tuple[Hop, ...] | list[Hop]) -> list[object]:
    return [(f"{each.source.rpartition('/')[2]}>{each.destination}", shape(each.calls)) for each in hops]


def test_a_call_through_three_services_is_a_chain() -> None:
    hops = join(
        [
            into("orders", "payments", 22, 8),
            out("web", "orders", 0, 100),
            out("orders", "payments", 20, 12),
            into("web", "orders", 2, 90),
        ]
    )
    assert shape(hops) == [("web>orders", [("orders>payments", [])])]
    [first] = hops
    assert (first.total_ms, first.between_ms, first.own_ms) == (100, 10, 78)
    [second] = first.calls
    assert (second.total_ms, second.between_ms, second.own_ms) == (12, 4, 8)


def test_calls_at_the_same_time_are_counted_once_in_what_the_app_waited_for() -> None:
    [root] = join(
        [
            out("web", "orders", 0, 100),
            into("web", "orders", 0, 100),
            out("orders", "payments", 10, 40),
            out("orders", "reports", 30, 40),
        ]
    )
    assert [each.destination for each in root.calls] == ["payments", "reports"]
    assert root.own_ms == 40


def test_tries_that_arrived_belong_to_one_call() -> None:
    [root] = join(
        [
            out("web", "orders", 0, 60, attempts=2),
            into("web", "orders", 1, 10, status=503),
            into("web", "orders", 30, 20),
        ]
    )
    assert len(root.inbound) == 2
    assert root.answered is not None
    assert root.answered.status == 200
    assert not root.failed


def test_the_same_call_twice_in_a_row_is_two_calls() -> None:
    hops = join(
        [
            out("web", "orders", 0, 10),
            into("web", "orders", 1, 8),
            out("web", "orders", 1000, 10),
            into("web", "orders", 1001, 8),
        ]
    )
    assert shape(hops) == [("web>orders", []), ("web>orders", [])]
    assert all(len(each.inbound) == 1 for each in hops)


def test_clocks_that_differ_by_seconds_do_not_part_what_can_only_belong_together() -> None:
    [root] = join(
        [out("web", "orders", 0, 10), into("web", "orders", 90_000, 8), out("orders", "payments", 90_002, 4)]
    )
    assert shape([root]) == [("web>orders", [("orders>payments", [])])]


def test_a_trace_joins_calls_whose_request_ids_differ() -> None:
    hops = join(
        [
            into("web", "orders", 0, 50, trace_id="a" * 32),
            out("orders", "payments", 5, 20, request="other", trace_id="a" * 32),
            out("orders", "reports", 5, 20, request="another"),
        ]
    )
    assert shape(hops) == [("web>orders", [("orders>payments", [])]), ("orders>reports", [])]


def test_a_caller_without_a_proxy_has_the_callees_record_alone() -> None:
    [root] = join([into("", "orders", 0, 5, source_address="10.0.0.9:1234", plaintext=True)])
    assert (root.outbound, root.source) == (None, "10.0.0.9:1234")
    assert root.between_ms is None


def test_a_refused_call_has_the_callers_record_alone() -> None:
    [root] = join([out("web", "orders", 0, 1, verdict=Verdict.FAILED, status=503, flags=("UH",))])
    assert root.failed
    assert root.own_ms is None


_services = st.sampled_from(["web", "orders", "payments"])
_records = st.builds(
    record,
    st.sampled_from(Direction),
    _services,
    _services,
    st.floats(0, 200),
    st.floats(0, 200),
    trace_id=st.sampled_from(["", "a" * 32]),
)


@given(st.lists(_records, max_size=14))
def test_every_record_stands_in_the_tree_once_whatever_they_are(records: list[AccessRecord]) -> None:
    found: list[AccessRecord] = []

    def walk(hops: list[Hop]) -> None:
        for each in hops:
            found.extend(filter(None, [each.outbound, *each.inbound]))
            walk(each.calls)

    walk(list(join(records)))
    assert sorted(map(id, found)) == sorted(map(id, records))
