"""What is the same as before is not sent again, and what is put together is what would have been sent."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3 import discovery_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.wire.gen.vestibule.xds.v1 import patch_pb2
from vestibule.xds.messages import DeltaResponse
from vestibule.xds.patches import PATCH, PatchReader, PatchWriter, differences, put_together
from vestibule.xds.protobuf import delta_response_bytes
from vestibule.xds.resources import CLUSTER, ROUTES, Resource

MANY = [f"service-{number}" for number in range(400)]


def routes(*hosts: tuple[str, list[str]]) -> bytes:
    written = [VirtualHost(name=name, domains=domains) for name, domains in hosts]
    message = RouteConfiguration(name="egress", virtual_hosts=written)
    body: bytes = message.SerializeToString(deterministic=True)
    return body


def egress(*first: str) -> Resource:
    return Resource.of(ROUTES, "egress", routes(("some", list(first)), ("others", MANY)))


class Line:
    """A stream with both of its ends."""

    def __init__(self) -> None:
        self.writer, self.reader = PatchWriter(), PatchReader()
        self.sent: list[int] = []

    def carry(self, *resources: Resource, removed: tuple[str, ...] = (), url: str = ROUTES) -> DeltaResponse:
        nonce = str(len(self.sent) + 1)
        response = DeltaResponse(type_url=url, version="v", nonce=nonce, resources=resources, removed=removed)
        written = self.writer.write(response)
        self.sent.append(len(written))
        arrived = self.reader.read(pb.DeltaDiscoveryResponse.FromString(written))
        assert arrived == response
        return arrived


def test_a_small_change_of_something_large_is_small() -> None:
    line = Line()
    for each in (egress("a"), egress("b"), egress("b", "c"), egress("b")):
        line.carry(each)
    whole, *patches = line.sent
    assert whole > 4000
    assert all(size < 300 for size in patches)


def test_what_was_taken_away_or_comes_on_another_stream_is_sent_whole() -> None:
    line, other = Line(), Line()
    line.carry(egress("a"))
    line.carry(removed=("egress",))
    line.carry(egress("b"))
    other.carry(egress("b"))
    assert line.sent[2] == other.sent[0] > 4000


def test_who_had_something_else_before_gets_another_patch() -> None:
    line, other, last = Line(), Line(), egress("c")
    line.carry(egress("a"))
    other.carry(egress("x", "y"))
    for each in (line, other, Line()):
        each.carry(last)
    assert max(line.sent[1], other.sent[1]) < 300


def test_what_is_small_quite_different_or_of_another_type_is_sent_as_ever() -> None:
    line = Line()
    small = [Resource.of(ROUTES, "egress", routes(("one", [domain]))) for domain in ("a", "b")]
    different = Resource.of(ROUTES, "egress", routes(("all", [f"else{name}" for name in MANY])))
    clusters = [Resource.of(CLUSTER, "c", routes((name, MANY))) for name in ("a", "b")]
    for url, resources in ((ROUTES, [*small, different, egress("a")]), (CLUSTER, clusters)):
        for each in resources:
            line.carry(each, url=url)
            response = DeltaResponse(type_url=url, version="v", nonce=str(len(line.sent)), resources=(each,))
            assert line.sent[-1] == len(delta_response_bytes(response))


def test_a_response_may_be_read_twice() -> None:
    line = Line()
    line.carry(egress("a"))
    response = DeltaResponse(type_url=ROUTES, version="v", nonce="2", resources=(egress("b"),))
    message = pb.DeltaDiscoveryResponse.FromString(line.writer.write(response))
    assert line.reader.read(message) is line.reader.read(message)


@pytest.mark.parametrize(
    ("base", "version", "body"),
    [
        (egress("other").version, egress("a").version, None),
        (egress("a").version, egress("b").version, None),
        (egress("a").version, egress("a").version, b"\xff"),
        (
            egress("a").version,
            egress("a").version,
            patch_pb2.Patch(base=egress("a").version, places=[1]).SerializeToString(),
        ),
    ],
    ids=["made of something else", "another result", "not to be read", "of half a piece"],
)
def test_what_does_not_fit_is_not_used(base: str, version: str, body: bytes | None) -> None:
    line, had = Line(), egress("a")
    line.carry(had)
    patch = patch_pb2.Patch(base=base, places=[0, len(had.body)], literals=[b""])
    message = pb.DeltaDiscoveryResponse(type_url=ROUTES, nonce="2")
    entry = message.resources.add(name="egress", version=version)
    entry.resource.type_url, entry.resource.value = PATCH, body or patch.SerializeToString()
    with pytest.raises(VestibuleError, match="VST3112"):
        line.reader.read(message)


NAMES = st.lists(st.sampled_from(["a", "b", "longer", "x" * 200]), max_size=3)
HOSTS = st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), NAMES), max_size=5)


@settings(max_examples=300)
@given(HOSTS, HOSTS)
def test_pieces_make_one_message_of_any_other(
    before: list[tuple[str, list[str]]], now: list[tuple[str, list[str]]]
) -> None:
    base, body = routes(*before), routes(*now)
    assert put_together(base, differences(base, body)) == body
    assert put_together(base, differences(base, base)) == base


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_and_one_that_is_no_message(base: bytes, body: bytes) -> None:
    assert put_together(base, differences(base, body)) == body
