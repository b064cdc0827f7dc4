"""Which instances a caller tries first: by where they are, and where it is itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from vestibule.envoy.places import address_of
from vestibule.intent.traffic import Locality, Nearness
from vestibule.records import Address, Health, Instance
from vestibule.xds.resources import Resource

_HEALTH: Final = {
    Health.STARTING: health_check_pb2.UNHEALTHY,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
    Health.DRAINING: health_check_pb2.DRAINING,
}
"""What keeps an instance from being called.  That it is well is not said: nobody would call it the more."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One instance as one caller sees it.  ``priority`` counts from 0, the nearest."""

    priority: int
    locality: str
    address: Address
    health: str = Health.HEALTHY.value
    version: str = ""


def places(
    instances: Collection[Instance], port: str, locality: Locality | None, here: str, *, versions: bool
) -> tuple[Place, ...]:
    """The instances' places, in order.  ``here`` is the caller's own locality.

    With ``versions`` each place says which version runs there.  Without preferences all are alike.
    """
    wanted = _nearness(locality)
    distances = {each.id: _distance(locality, here, each.locality) for each in instances}
    # Envoy wants priorities without gaps.
    ranks = {distance: rank for rank, distance in enumerate(sorted(set(distances.values())))}
    found = (
        Place(
            priority=ranks[distances[each.id]],
            locality="" if wanted is Nearness.ANY else each.locality,
            address=each.ingress[port],
            health=(each.health if each.health in _HEALTH else Health.HEALTHY).value,
            version=each.version if versions else "",
        )
        for each in instances
    )
    return tuple(sorted(found))


def depends_on_caller(locality: Locality | None) -> bool:
    """Whether callers in different places see different endpoints."""
    return _nearness(locality) is not Nearness.ANY


def assignment(name: str, found: Iterable[Place]) -> endpoint_pb2.ClusterLoadAssignment:
    """The places as endpoints of a cluster, those of one priority and locality together."""
    loads = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for (priority, locality), together in groupby(found, lambda each: (each.priority, each.locality)):
        group = loads.endpoints.add(priority=priority)
        if locality:
            region, _, zone = locality.partition("/")
            group.locality.CopyFrom(base_pb2.Locality(region=region, zone=zone))
        group.lb_endpoints.extend(_endpoint(each) for each in together)
    return loads


def calls_any(endpoints: Resource, addresses: Collection[Address]) -> bool:
    """Whether a proxy with these endpoints calls one of the addresses."""
    loads = endpoint_pb2.ClusterLoadAssignment.FromString(endpoints.body)
    return any(
        _dialled(each) in addresses and each.health_status not in _HEALTH.values()
        for group in loads.endpoints
        for each in group.lb_endpoints
    )


def _dialled(endpoint: endpoint_components_pb2.LbEndpoint) -> Address:
    place = endpoint.endpoint.address.socket_address
    return Address(host=place.address, port=place.port_value)


def _endpoint(place: Place) -> endpoint_components_pb2.LbEndpoint:
    endpoint = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address_of(place.address)),
        health_status=_HEALTH.get(Health(place.health), health_check_pb2.UNKNOWN),
    )
    if place.version:
        endpoint.metadata.filter_metadata["vestibule"].update({"version": place.version})
    return endpoint


def _nearness(locality: Locality | None) -> Nearness:
    if locality is None:
        return Nearness.ANY
    if locality.prefer is Nearness.ANY and locality.failover:
        return Nearness.REGION
    return locality.prefer


def _distance(locality: Locality | None, here: str, there: str) -> int:
    """0: the same zone, if zones matter; then the own region, the regions of the list, everywhere else."""
    wanted = _nearness(locality)
    if locality is None or wanted is Nearness.ANY:
        return 0
    own, other = here.partition("/")[0], there.partition("/")[0]
    if here and wanted is Nearness.ZONE and here == there:
        return 0
    if own and own == other:
        return 1
    if other in locality.failover:
        return 2 + locality.failover.index(other)
    return 2 + len(locality.failover)
