"""The world of one lone sidecar: itself, and its upstreams where its file says they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from vestibule.envoy.compile import compile_proxy
from vestibule.envoy.world import DEFAULT_SVID_TTL, World, last_expiry
from vestibule.intent.lone.model import Lone, Upstream
from vestibule.records import Address, Instance
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.xds.resources import ProxyKey, Snapshot

NO_AGENT: Final = SpiffeId.parse("spiffe://unknown.invalid/agent")


def world_of(
    lone: Lone,
    instance: Instance,
    now: datetime,
    *,
    svid_ttl: timedelta = DEFAULT_SVID_TTL,
    revocations: Revocations | None = None,
) -> World:
    """All that its Envoy is compiled from.  Upstreams' instances are named by their addresses."""
    callees = [each for upstream in lone.upstreams for each in _instances(upstream)]
    return World(
        intent=lone.intent,
        instances=(instance, *callees),
        default_svid_ttl=svid_ttl,
        revocations=revocations or Revocations(),
        as_of=last_expiry(lone.intent, now),
    )


def compiled(world: World, instance: Instance) -> Snapshot:
    """Everything that the instance's Envoy should have."""
    return compile_proxy(world, ProxyKey(instance.spiffe_id, instance.id))


def _instances(upstream: Upstream) -> Iterator[Instance]:
    for place in upstream.addresses:
        address = Address(host=place.host, port=place.port)
        yield Instance(
            id=f"{upstream.name}-{address}",
            service=upstream.name,
            spiffe_id=upstream.identity,
            agent_id=NO_AGENT,
            ingress={upstream.port: address},
        )
