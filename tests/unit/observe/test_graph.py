"""Records become a graph of who calls whom, and the graph a picture."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.observe.graph import Graph, Kind, Link, Node, graph
from vestibule.observe.graph_drawing import dot, svg
from vestibule.observe.graph_layers import layers

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
INBOUND = AccessRecord(
    time=NOW,
    layer=Layer.HTTP,
    direction=Direction.INBOUND,
    verdict=Verdict.ALLOWED,
    reporter_service="orders",
    reporter_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
    reporter_instance="orders-1",
    source_spiffe_id="spiffe://example.org/ns/prod/sa/web",
    destination_service="orders",
    request_id="r1",
    status=200,
    duration_ms=5.0,
)
OUTBOUND = replace(
    INBOUND,
    direction=Direction.OUTBOUND,
    reporter_service="web",
    reporter_spiffe_id="spiffe://example.org/ns/prod/sa/web",
    reporter_instance="web-1",
)


def only(found: Graph) -> Link:
    [link] = found.links
    return link


def test_a_call_that_both_proxies_recorded_counts_once() -> None:
    link = only(graph([OUTBOUND, INBOUND]))
    assert (link.source, link.destination, link.calls, link.p50) == ("web", "orders", 1, 5.0)


def test_a_call_that_never_arrived_is_counted_as_its_caller_saw_it() -> None:
    link = only(graph([replace(OUTBOUND, verdict=Verdict.FAILED, status=503, flags=("UH",))]))
    assert (link.calls, link.failed, link.well) == (1, 1, 0.0)


def test_denials_and_failures_are_told_apart() -> None:
    records = [
        INBOUND,
        replace(INBOUND, verdict=Verdict.DENIED, status=403),
        replace(INBOUND, status=500),
        replace(INBOUND, status=404),
    ]
    link = only(graph(records))
    assert (link.calls, link.denied, link.failed) == (4, 1, 1)


def test_hosts_outside_and_callers_without_identity_are_nodes_of_their_own_kind() -> None:
    found = graph(
        [
            replace(OUTBOUND, destination_service="external:stripe", destination_spiffe_id=""),
            replace(INBOUND, source_spiffe_id="", plaintext=True, request_id="r2"),
        ]
    )
    assert {each.name: each.kind for each in found.nodes} == {
        "web": Kind.SERVICE,
        "stripe": Kind.OUTSIDE,
        "unknown": Kind.UNKNOWN,
        "orders": Kind.SERVICE,
    }
    assert [each.plaintext for each in found.links] == [1, 0]


def test_names_of_nobody_and_refused_handshakes_are_no_links() -> None:
    nobody = replace(OUTBOUND, destination_service="", verdict=Verdict.DENIED, status=404)
    assert graph([nobody, replace(INBOUND, layer=Layer.LISTENER, verdict=Verdict.REFUSED)]).links == ()


def test_older_records_are_left_out_when_asked() -> None:
    assert only(graph([INBOUND, replace(INBOUND, time=NOW - timedelta(hours=1))], since=NOW)).calls == 1


def link(source: str, destination: str, plaintext: int = 0) -> Link:
    return Link(
        source=source,
        destination=destination,
        calls=2,
        denied=0,
        failed=1,
        plaintext=plaintext,
        p50=1.0,
        p95=2.0,
    )


def drawn(*links: Link) -> Graph:
    names = sorted({name for each in links for name in (each.source, each.destination)})
    return Graph(nodes=tuple(map(Node, names)), links=links)


def test_callers_stand_left_of_those_whom_they_call() -> None:
    columns = layers(drawn(link("a", "b"), link("b", "c"), link("a", "c")))
    names = [[name for name in column if "\0" not in name] for column in columns]
    assert names == [["a"], ["b"], ["c"]]
    assert len(columns[1]) == 2, "the link from a to c has a place beside b"


_names = st.text(max_size=12).filter(lambda text: "\0" not in text)
_links = st.builds(link, _names, _names, st.integers(0, 2))
_graphs = st.lists(_links, max_size=25, unique_by=lambda each: (each.source, each.destination)).map(
    lambda links: drawn(*links)
)


@given(_graphs)
def test_every_node_stands_in_one_place_whatever_calls_whom(found: Graph) -> None:
    placed = [name for column in layers(found) for name in column if "\0" not in name]
    assert sorted(placed) == sorted(each.name for each in found.nodes)


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] < pair[1]), unique=True
    )
)
def test_without_circles_every_call_runs_to_the_right(pairs: list[tuple[int, int]]) -> None:
    found = drawn(*(link(str(one), str(other)) for one, other in pairs))
    column = {name: place for place, names in enumerate(layers(found)) for name in names}
    assert all(column[each.source] < column[each.destination] for each in found.links)


_printable = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Cn")), max_size=12)


@given(
    st.lists(
        st.builds(link, _printable, _printable),
        max_size=8,
        unique_by=lambda each: (each.source, each.destination),
    )
)
def test_pictures_are_sound_whatever_the_names_are(links: list[Link]) -> None:
    found = drawn(*links)
    root = ElementTree.fromstring(svg(found))
    assert len(root.findall(".//{http://www.w3.org/2000/svg}path[@marker-end]")) == len(links)
    assert svg(found) == svg(found)
    assert dot(found).count("->") >= len(links)


def test_names_that_end_a_string_are_quoted_for_graphviz() -> None:
    assert r'"a\"b\\" -> "c"' in dot(drawn(link('a"b\\', "c")))


def test_a_graph_without_calls_is_an_empty_picture() -> None:
    empty = graph([])
    assert layers(empty) == []
    ElementTree.fromstring(svg(empty))
