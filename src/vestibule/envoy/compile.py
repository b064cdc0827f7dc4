"""The compiler: a pure function from a world to what one proxy should have.

Same world, same bytes.  Each resource is built once for all proxies that need the very same one, by functions
that remember their results by their small immutable arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Final, TypeVar, cast

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
from vestibule.envoy.injected import Injection
from vestibule.envoy.routes import Calls
from vestibule.envoy.world import Destination, World
from vestibule.intent.outside import Gateway
from vestibule.intent.traffic import Traffic
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.clients import ClientKind, client_kind
from vestibule.xds.resources import CLUSTER, ProxyKey, Resource, Snapshot

_Made = TypeVar("_Made")


def compile_proxy(world: World, proxy: ProxyKey) -> Snapshot:
    """Everything one proxy should have; nothing, if its service is no longer in the intent.

    Raises: VST3000 when its instance is not in the world.
    """
    compiler = Compiler()
    compiler.take(world)
    return compiler.compile(proxy, None).snapshot


Pieces = tuple[tuple[Resource, ...], ...]
"""Resources in the order of their making; a piece that is made of the same is the same object again."""


@dataclass(frozen=True, slots=True, eq=False)
class Compilation:
    """What one proxy should have, what was asked of the world for it, and the pieces that it was put together from.

    ``pieces`` is None where the snapshot is not made of them alone.
    """

    snapshot: Snapshot
    trace: Trace
    pieces: Pieces | None = None


class Compiler:
    """Compiles for one proxy after another, in one world after another; only what changed is made anew.

    The result is that of ``compile_proxy``.  Where the world answers a proxy's questions as it did before, all of it is
    what it was; in any case types that stay the same are the same objects.
    """

    def __init__(self) -> None:
        self.world: World | None = None
        self._questions = Questions()
        self._differences = _Differences()

    def take(self, world: World) -> World:
        """Compile this world from now on; returns it with what it has in common with the last one."""
        self.world = world.following(self.world)
        self._questions.turn_to(self.world)
        self._differences = _Differences()
        return self.world

    def compile(self, proxy: ProxyKey, before: Compilation | None) -> Compilation:
        """What the proxy should have; ``before`` is what it had, in whatever world.

        Raises: VST3000; AssertionError before there is a world.
        """
        assert self.world is not None
        version = self.world.version
        if before is not None and self._questions.still_hold(before.trace):
            return Compilation(before.snapshot.relabelled(version), before.trace, before.pieces)
        asked = Asked(self.world, self._questions)
        pieces = _pieces(asked, proxy)
        snapshot = None if before is None else self._changed(before, pieces)
        if snapshot is None:
            earlier = None if before is None else before.snapshot
            snapshot = Snapshot.of(version, chain.from_iterable(pieces), before=earlier)
            if earlier is not None and snapshot.is_as(earlier):
                snapshot = earlier
        return Compilation(snapshot.relabelled(version), asked.trace, pieces)

    def _changed(self, before: Compilation, pieces: Pieces) -> Snapshot | None:
        """The snapshot of these pieces, by what is another resource than before; None if it is not so simple."""
        if before.pieces is None or len(before.pieces) != len(pieces):
            return None
        snapshot, changed = before.snapshot, list[Resource]()
        for old, new in zip(before.pieces, pieces, strict=True):
            if old is not new:
                found = self._differences.between(old, new)
                if found is None:
                    return None
                changed += found
        return snapshot.with_resources(*(snapshot.fitted(each) for each in changed))


class _Differences:
    """What is another resource in one piece than in another: found out once for all who have both."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[object, object, tuple[Resource, ...] | None]] = {}

    def between(self, old: tuple[Resource, ...], new: tuple[Resource, ...]) -> tuple[Resource, ...] | None:
        """None where names differ, or clusters, on whose versions those of endpoints depend."""
        if len(new) < _WORTH_KEEPING:
            return _difference(old, new)
        key = id(old), id(new)
        if (known := self._known.get(key)) is None:
            # Both are kept, so that no other gets their place in memory.
            known = self._known[key] = old, new, _difference(old, new)
        return known[2]


_WORTH_KEEPING: Final = 16


def _difference(old: tuple[Resource, ...], new: tuple[Resource, ...]) -> tuple[Resource, ...] | None:
    if len(old) != len(new):
        return None
    changed = []
    for was, now in zip(old, new, strict=True):
        if was is now or was == now:
            continue
        if was.name != now.name or was.type_url != now.type_url or now.type_url == CLUSTER:
            return None
        changed.append(now)
    return tuple(changed)


def _pieces(asked: Asked, proxy: ProxyKey) -> Pieces:
    world = cast(World, asked)
    if (kind := client_kind(proxy)) is not None:
        return (tuple(_of_client(asked, proxy.spiffe_id, kind)),)
    instance = world.instance(proxy.instance_id, proxy.spiffe_id)
    service = world.service(proxy.spiffe_id)
    if instance is None:
        raise UNKNOWN_INSTANCE.error(f"no instance {proxy.instance_id!r} of {proxy.spiffe_id} is known")
    if (edge := world.gateway(proxy.spiffe_id)) is not None and instance.service == edge.name:
        return (tuple(_of_gateway(world, edge, instance)),)
    if service is None or instance.service != service.name:
        return ()
    way_out = asked.part(
        ("way out", proxy.spiffe_id, instance.locality),
        lambda other: _way_out(other, proxy.spiffe_id, instance.locality),
    )
    way_in = asked.part(("way in", proxy), lambda other: _way_in(other, proxy))
    outlets = tuple(egress.resources(world, instance, way_out.calls, way_out.by_name))
    return _LIMITS, way_in, outlets, way_out.destinations


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
    # What is told is asked for only where it is told, since it changes with every commit.
    return tuple(
        ingress.resources(
            service,
            traffic,
            instance,
            ttl,
            lambda: world.told(service.name),
            lambda port: world.policy(service.name, port),
            world.issuers,
            world.refused,
            world.cut,
            world.decide,
        )
    )


def _way_out(world: World, caller: SpiffeId, here: str, *, abroad: bool = True) -> _WayOut:
    """``abroad``: also to hosts outside."""
    calls = _calls_of(world, caller)
    return _WayOut(
        calls,
        egress.by_name(world, caller, calls, abroad=abroad),
        (
            *_destinations(world, caller, here, calls.values(), injecting=abroad),
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
        *gateway.resources(
            edge, instance, {each.target.cluster: each for each in calls.values()}, world.issuers
        ),
        *_destinations(world, edge.spiffe_id, instance.locality, calls.values()),
    )


def _outside(world: World, caller: SpiffeId) -> Iterator[Resource]:
    """The clusters of hosts outside that some rule lets a service call."""
    for external in world.outside_for(caller):
        if external.allow:
            yield outside.cluster(external, world.defaults)


def _calls_of(world: World, caller: SpiffeId) -> dict[str, Calls]:
    """How a service calls what it may call, by the destinations' names."""
    allowed = sorted(world.allowed_for(caller))
    found = (_part(world, ("calls", name), partial(_calls_to, name)) for name in allowed)
    every = [each for each in found if each is not None]
    clusters_there = {each.target.cluster for each in every}
    return {
        each.target.name: each
        if each.mirrors <= clusters_there
        else replace(each, mirrors=each.mirrors & clusters_there)
        for each in every
    }


def _calls_to(name: str, world: World) -> Calls | None:
    """How a destination is called, by somebody who may call all that is mirrored to, too."""
    if (target := world.destination(name)) is None:
        return None
    traffic = world.traffic(target.service)
    mirrors = routes.mirrored(traffic, target.port.name) if traffic.routes else frozenset[str]()
    injecting = world.injecting(target)
    return Calls(
        target=target, traffic=traffic, defaults=world.defaults, mirrors=mirrors, injecting=injecting
    )


def _destinations(
    world: World, caller: SpiffeId, here: str, every: Iterable[Calls], *, injecting: bool = True
) -> Iterator[Resource]:
    """The clusters of what may be called, and where their instances are; ``injecting``: tokens, too, if asked for."""
    svid_ttl = world.svid_ttl(caller)
    for calls in every:
        name = calls.target.name
        token = Injection.of(caller, calls.injecting) if injecting and calls.injecting else None
        key = ("destination", name, here, svid_ttl, *((token,) if token else ()))
        yield from _part(world, key, partial(_destination, name, here, svid_ttl, token=token))


def _destination(
    name: str, here: str, svid_ttl: timedelta, world: World, *, token: Injection | None
) -> tuple[Resource, ...]:
    """The same of one, for all of its callers there, who send the same token along."""
    target = world.destination(name)
    assert target is not None
    traffic, defaults = world.traffic(target.service), world.defaults
    circuit, outlier = traffic.circuit or defaults.circuit, traffic.outlier or defaults.outlier
    names = {target.cluster: ""}
    names |= {
        routes.version_cluster(target, each): each for each in routes.versions_of(traffic, target.port.name)
    }
    crl = world.crl_about(target.spiffe_id)
    found = []
    for cluster, version in names.items():
        found.append(clusters.destination(cluster, target, svid_ttl, circuit, outlier, crl, token))
        found.append(_endpoints(world, target, traffic, cluster, version, here))
    return tuple(found)


def _part(world: World, key: Hashable, make: Callable[[World], _Made]) -> _Made:
    """Within a part another one, which others have, too."""
    return cast(Asked, world).part(key, make)


def _endpoints(
    world: World, target: Destination, traffic: Traffic, name: str, version: str, here: str
) -> Resource:
    """Where instances are, seen from ``here``: the same for many proxies of one world."""
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
