"""The compiler: a pure function from a world to what one proxy should have.

Same world, same bytes.  Each resource is built once for all proxies that need the very same one, by functions
that remember their results by their small immutable arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

from vestibule.envoy import access_log, clusters, egress, ingress
from vestibule.envoy.codes import UNKNOWN_INSTANCE
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
    allowed = _callable_by(world, instance)
    version = world.intent.version
    return Snapshot.of(
        version,
        (
            *access_log.limits(),
            *ingress.resources(service, instance, svid_ttl, version),
            *egress.resources(world, instance, allowed),
            *(clusters.destination(each, svid_ttl) for each in allowed),
            *_endpoints(world, allowed),
        ),
    )


def _callable_by(world: World, instance: Instance) -> tuple[Destination, ...]:
    found = (world.destination(name) for name in sorted(world.allowed_for(instance.spiffe_id)))
    return tuple(each for each in found if each is not None)


def _endpoints(world: World, allowed: tuple[Destination, ...]) -> Iterator[Resource]:
    for each in allowed:
        addresses = tuple(found.ingress[each.port.name] for found in world.instances_of(each))
        yield clusters.endpoints(each.cluster, addresses)
