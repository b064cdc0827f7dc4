"""Where denials are written: what an agent needs to name file and line in its logs, also while the server is away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vestibule.envoy.outside import cluster_name
from vestibule.envoy.told import place_of
from vestibule.intent.model import Service
from vestibule.intent.outside import External

MOST: Final = 10_000
"""Rules whose places are told; those of any others stand in the intent, where ``vestibule explain`` finds them."""


def denial_places(service: Service, outside: Iterable[External]) -> Mapping[str, str]:
    """By the names of rules that deny; by the name of the service, and of hosts outside, the file of what allows."""
    found = {each.name: place_of(each.where) for each in service.deny[:MOST]}
    found[service.name] = place_of(service.where, line=False)
    found.update((cluster_name(each), place_of(each.where, line=False)) for each in outside)
    return {name: place for name, place in found.items() if place}
