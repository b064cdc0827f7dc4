"""The compiler: a pure function from a world to what one proxy should have.

Same world, same bytes.  Each resource is built once for all proxies that need the very same one, by functions
that remember their results by their small immutable arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from datetime import timedelta

from vestibule.envoy import access_log, clusters, egress, ingress, localities, routes
from vestibule.envoy.codes import UNKNOWN_INSTANCE
from vestibule.envoy.routes import Calls
from vestibule.envoy.world import Destination, World
from vestibule.records import Instance
from vestibule.xds.resources import ProxyKey, Resource, Snapshot


def compile_proxy(world: World, proxy: ProxyKey) -> Snapshot:
    """Everything one proxy should have; nothing, if its service is no longer in the intent.

    Raises: VST3000 when its instance is not in the world.
    """
    instance = world.instance(proxy.instance_id, proxy.spiffe_id)
    service = world.service(proxy.spiffe_id)
    if instance is None:
        raise UNKNOWN_INSTANCE.error(f"no instance {proxy.instance_id!r} of {proxy.spiffe_id} is known")
    if service is None or instance.service != service.name:
        return Snapshot.of(world.intent.version, ())
    svid_ttl = world.svid_ttl(proxy.spiffe_id)
    calls = _calls_of(world, instance)
    version = world.intent.version
    return Snapshot.of(
        version,
        (
            *access_log.limits(),
            *ingress.resources(service, instance, svid_ttl, version),
            *egress.resources(world, instance, calls),
            *_destinations(world, instance, calls.values(), svid_ttl),
        ),
    )


def _calls_of(world: World, instance: Instance) -> dict[str, Calls]:
    """How an instance calls what it may call, by the destinations' names."""
    found = (world.destination(name) for name in sorted(world.allowed_for(instance.spiffe_id)))
    targets = [each for each in found if each is not None]
    clusters_there = {each.cluster for each in targets}
    return {each.name: _calls_to(world, each, clusters_there) for each in targets}


def _calls_to(world: World, target: Destination, clusters_there: Set[str]) -> Calls:
    traffic = world.traffic(target.service)
    mirrors = routes.mirrored(traffic, target.port.name) if traffic.routes else frozenset[str]()
    return Calls(
        target=target,
        traffic=traffic,
        defaults=world.intent.mesh.defaults,
        mirrors=mirrors & clusters_there,
    )


def _destinations(
    world: World, instance: Instance, every: Iterable[Calls], svid_ttl: timedelta
) -> Iterator[Resource]:
    """The clusters of what may be called, and where their instances are."""
    for calls in every:
        circuit = calls.traffic.circuit or calls.defaults.circuit
        outlier = calls.traffic.outlier or calls.defaults.outlier
        target = calls.target
        names = {target.cluster: ""}
        names |= {
            routes.version_cluster(target, each): each
            for each in routes.versions_of(calls.traffic, target.port.name)
        }
        for name, version in names.items():
            yield clusters.destination(name, target, svid_ttl, circuit, outlier)
            yield _endpoints(world, calls, name, version, instance.locality)


def _endpoints(world: World, calls: Calls, name: str, version: str, here: str) -> Resource:
    """Where instances are, seen from ``here``: the same for many proxies of one world."""
    target, traffic = calls.target, calls.traffic
    if not localities.depends_on_caller(traffic.locality):
        here = ""
    if (known := world.compiled.get((name, here))) is not None:
        return known
    found = world.instances_of(target)
    if version:
        found = tuple(each for each in found if each.version == version)
    seen = localities.places(found, target.port.name, traffic.locality, here, versions=bool(traffic.versions))
    return world.compiled.setdefault((name, here), clusters.endpoints(name, seen))
