"""Messages to and from Envoy's types, and what is never written anywhere."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb

from vestibule.xds.client import DeltaClient
from vestibule.xds.delta import DeltaStream
from vestibule.xds.messages import DeltaRequest, DeltaResponse, Settled, SotwResponse
from vestibule.xds.protobuf import delta_response_bytes, delta_response_from, delta_response_to
from vestibule.xds.resources import CLUSTER, SECRET, Resource, Snapshot
from vestibule.xds.subscription import Delivery

SECRET_BYTES = b"-----BEGIN PRIVATE KEY----- do not show"


def test_t17_a_heartbeat_prolongs_and_changes_nothing() -> None:
    """A resource without a body: it is no removal, no new version, and there is nothing to hand on."""
    message = pb.DeltaDiscoveryResponse(type_url=CLUSTER, nonce="1")
    message.resources.add(name="a", version="v1").ttl.seconds = 5
    response, heartbeats = delta_response_from(message)
    assert heartbeats == ("a",)
    assert (response.resources, response.removed) == ((), ())
    change = DeltaClient([CLUSTER], node_id="n").read(response)
    assert not change.resources
    assert not change.removed


def test_a_response_survives_the_wire() -> None:
    resource = Resource.of(CLUSTER, "a", b"body")
    response = DeltaResponse(type_url=CLUSTER, version="v", nonce="1", resources=(resource,), removed=("b",))
    assert delta_response_from(delta_response_to(response)) == (response, ())


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b")])
@pytest.mark.parametrize("removed", [(), ("b", "c")])
def test_what_is_written_of_parts_that_many_share_is_what_would_be_written_at_once(
    names: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    resources = tuple(Resource.of(CLUSTER, name, name.encode() * 300) for name in names)
    for nonce in ("1", "2"):
        response = DeltaResponse(
            type_url=CLUSTER, version="v", nonce=nonce, resources=resources, removed=removed
        )
        assert delta_response_bytes(response) == delta_response_to(response).SerializeToString()
    assert all(each.entry is not None for each in resources)


def test_a_secret_is_not_kept_a_second_time() -> None:
    secret = Resource.of(SECRET, "default", SECRET_BYTES)
    response = DeltaResponse(type_url=SECRET, version="v", nonce="1", resources=(secret,))
    assert delta_response_bytes(response) == delta_response_to(response).SerializeToString()
    assert secret.entry is None


def test_t27_no_bytes_of_a_resource_are_shown_by_anything_that_could_be_logged() -> None:
    resource = Resource.of(SECRET, "default", SECRET_BYTES)
    snapshot = Snapshot.of("v", [resource])
    stream = DeltaStream((SECRET,))
    stream.allow_breaking()
    stream.update(snapshot)
    stream.receive(DeltaRequest(type_url=SECRET, node_id="n", subscribe=("default",)))
    response = stream.next_response()
    assert response is not None
    stream.receive(DeltaRequest(type_url=SECRET, nonce=response.nonce, error="no"))
    events = stream.take_events()
    shown = repr(
        (
            resource,
            snapshot,
            response,
            events,
            Delivery("v", {"default": resource}),
            SotwResponse(type_url=SECRET, version="v", nonce="1", resources=(resource,)),
            [event for event in events if isinstance(event, Settled)],
        )
    )
    assert "default" in shown
    assert "PRIVATE KEY" not in shown
