"""The compiler: a pure function from a world to what one proxy should have.

Same world, same bytes.  Each resource is built once for all proxies that need the very same one, by functions
that remember their results by their small immutable arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

from vestibule.envoy import (
    access_log,
    clusters,
    egress,
    gateway,
    ingress,
    localities,
    outside,
    proxyless,
    routes,
)
from vestibule.envoy.asked import Asked, Questions, Trace
from vestibule.envoy.codes import UNKNOWN_INSTANCE
from vestibule.envoy.routes import Calls
from vestibule.envoy.world import Destination, World
from vestibule.intent.outside import Gateway
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.clients import ClientKind, client_kind
from vestibule.xds.resources import ProxyKey, Resource, Snapshot


def compile_proxy(world: World, proxy: ProxyKey) -> Snapshot:
    """Everything one proxy should have; nothing, if its service is no longer in the intent.

    Raises: VST3000 when its instance is not in the world.
    """
    compiler = Compiler()
    compiler.take(world)
    return compiler.compile(proxy, None).snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Compilation:
    """What one proxy should have, and what was asked of the world for it."""

    snapshot: Snapshot
    trace: Trace


class Compiler:
    """Compiles for one proxy after another, in one world after another; only what changed is made anew.

    The result is that of ``compile_proxy``.  Where the world answers a proxy's questions as it did before, all of it is
    what it was; in any case types that stay the same are the same objects.
    """

    def __init__(self) -> None:
        self.world: World | None = None
        self._questions = Questions()

    def take(self, world: World) -> World:
        """Compile this world from now on; returns it with what it has in common with the last one."""
        self.world = world.following(self.world)
        self._questions.turn_to(self.world)
        return self.world

    def compile(self, proxy: ProxyKey, before: Compilation | None) -> Compilation:
        """What the proxy should have; ``before`` is what it had, in whatever world.

        Raises: VST3000; AssertionError before there is a world.
        """
        assert self.world is not None
        if before is not None and self._questions.still_hold(before.trace):
            return Compilation(before.snapshot.relabelled(self.world.version), before.trace)
        asked = Asked(self.world, self._questions)
        resources = _resources(asked, proxy)
        if before is None:
            return Compilation(Snapshot.of(self.world.version, resources), asked.trace)
        snapshot = Snapshot.of(self.world.version, resources, before=before.snapshot)
        same = snapshot.is_as(before.snapshot)
        return Compilation(before.snapshot.relabelled(snapshot.version) if same else snapshot, asked.trace)


def _resources(asked: Asked, proxy: ProxyKey) -> Iterable[Resource]:
    world = cast(World, asked)
    if (kind := client_kind(proxy)) is not None:
        return _of_client(asked, proxy.spiffe_id, kind)
    instance = world.instance(proxy.instance_id, proxy.spiffe_id)
    service = world.service(proxy.spiffe_id)
    if instance is None:
        raise UNKNOWN_INSTANCE.error(f"no instance {proxy.instance_id!r} of {proxy.spiffe_id} is known")
    if (edge := world.gateway(proxy.spiffe_id)) is not None and instance.service == edge.name:
        return _of_gateway(world, edge, instance)
    if service is None or instance.service != service.name:
        return ()
    way_out = asked.part(
        ("way out", proxy.spiffe_id, instance.locality),
        lambda other: _way_out(other, proxy.spiffe_id, instance.locality),
    )
    way_in = asked.part(("way in", proxy), lambda other: _way_in(other, proxy))
    return (
        *_LIMITS,
        *way_in,
        *egress.resources(world, instance, way_out.calls, way_out.by_name),
        *way_out.destinations,
    )


_LIMITS: Final = tuple(access_log.limits())


@dataclass(frozen=True, slots=True, eq=False)
class _WayOut:
    """What the instances of one service in one place have in common: whom they call, and how."""

    calls: Mapping[str, Calls]
    by_name: Resource
    destinations: tuple[Resource, ...]


def _way_in(world: World, proxy: ProxyKey) -> tuple[Resource, ...]:
    """What the instance offers, which most changes leave as it is."""
    instance, service = world.instance(proxy.instance_id, proxy.spiffe_id), world.service(proxy.spiffe_id)
    assert instance is not None
    assert service is not None
    traffic, ttl = world.traffic(service.name), world.svid_ttl(proxy.spiffe_id)
    # The version is asked for only where it is told, since it changes with every commit.
    return tuple(
        ingress.resources(
            service,
            traffic,
            instance,
            ttl,
            lambda: world.version,
            lambda port: world.policy(service.name, port),
            world.issuers,
            world.refused,
            world.cut,
            world.mesh.decide,
        )
    )


def _way_out(world: World, caller: SpiffeId, here: str, *, abroad: bool = True) -> _WayOut:
    """``abroad``: also to hosts outside."""
    calls = _calls_of(world, caller)
    return _WayOut(
        calls,
        egress.by_name(world, caller, calls, abroad=abroad),
        (
            *_destinations(world, here, calls.values(), world.svid_ttl(caller)),
            *(_outside(world, caller) if abroad else ()),
        ),
    )


def _of_client(asked: Asked, caller: SpiffeId, kind: ClientKind) -> Iterable[Resource]:
    """Whom the client's service may call; listeners, if any, are its own.

    Hosts outside are left out: there the caller's proxy alone decides, by a filter that listeners of its own lack.
    """
    world = cast(World, asked)
    if world.service(caller) is None:
        return ()
    way_out = asked.part(
        ("way out of clients", caller), lambda other: _way_out(other, caller, "", abroad=False)
    )
    if kind is ClientKind.GRPC:
        return tuple(proxyless.resources(world, (each.target for each in way_out.calls.values())))
    return (*_LIMITS, way_out.by_name, *way_out.destinations)


def _of_gateway(world: World, edge: Gateway, instance: Instance) -> Iterable[Resource]:
    calls = _calls_of(world, edge.spiffe_id)
    return (
        *_LIMITS,
        *gateway.resources(edge, instance, {each.target.cluster: each for each in calls.values()}),
        *_destinations(world, instance.locality, calls.values(), world.svid_ttl(edge.spiffe_id)),
    )


def _outside(world: World, caller: SpiffeId) -> Iterator[Resource]:
    """The clusters of hosts outside that some rule lets a service call."""
    for external in world.outside_for(caller):
        if external.allow:
            yield outside.cluster(external, world.mesh.defaults)


def _calls_of(world: World, caller: SpiffeId) -> dict[str, Calls]:
    """How a service calls what it may call, by the destinations' names."""
    found = (world.destination(name) for name in sorted(world.allowed_for(caller)))
    targets = [each for each in found if each is not None]
    clusters_there = {each.cluster for each in targets}
    return {each.name: _calls_to(world, each, clusters_there) for each in targets}


def _calls_to(world: World, target: Destination, clusters_there: Set[str]) -> Calls:
    traffic = world.traffic(target.service)
    mirrors = routes.mirrored(traffic, target.port.name) if traffic.routes else frozenset[str]()
    return Calls(
        target=target,
        traffic=traffic,
        defaults=world.mesh.defaults,
        mirrors=mirrors & clusters_there,
    )


def _destinations(world: World, here: str, every: Iterable[Calls], svid_ttl: timedelta) -> Iterator[Resource]:
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
            yield clusters.destination(
                name, target, svid_ttl, circuit, outlier, world.crl_about(target.spiffe_id)
            )
            yield _endpoints(world, calls, name, version, here)


def _endpoints(world: World, calls: Calls, name: str, version: str, here: str) -> Resource:
    """Where instances are, seen from ``here``: the same for many proxies of one world."""
    target, traffic = calls.target, calls.traffic
    if not localities.depends_on_caller(traffic.locality):
        here = ""
    # Asked also where the answer is compiled already: what comes of it depends on this.
    found = world.instances_of(target)
    if (known := world.compiled.get((name, here))) is not None:
        return known
    if version:
        found = tuple(each for each in found if each.version == version)
    seen = localities.places(found, target.port.name, traffic.locality, here, versions=bool(traffic.versions))
    return world.compiled.setdefault((name, here), clusters.endpoints(name, seen))
