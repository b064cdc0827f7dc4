"""Envoy's overload manager: bounds that are looked at four times a second, on no request's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MONITORS: Final = "type.googleapis.com/envoy.extensions.resource_monitors"


def overload_manager(heap_bytes: int, connections: int, actions: Mapping[str, float]) -> dict[str, Any]:
    """At most so many connections; each action begins when that share of the heap's bound is in use."""
    heap = "envoy.resource_monitors.fixed_heap"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": heap_bytes,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": connections,
                },
            },
        ],
        "actions": [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": heap, "threshold": {"value": value}}],
            }
            for action, value in actions.items()
        ],
    }
