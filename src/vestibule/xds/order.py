"""In which order changes reach a proxy: first make, then break (xds_protocol.rst, eventual consistency).

Envoy confirms a change of clusters only once they are warm, for which it needs their endpoints; so endpoints
wait for nothing, and routes that lead to a new cluster wait for both.  Authorization (extensions) and secrets wait
for nothing either: a verdict must not queue behind a cluster that warms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from vestibule.xds.resources import CLUSTER, DECISIONS, ENDPOINTS, EXTENSION, LISTENER, ROUTES, SECRET
from vestibule.xds.subscription import Subscription


class Action(Flag):
    """What a step does with resources of its type."""

    UPSERT = auto()
    REMOVE = auto()
    BOTH = UPSERT | REMOVE


class Gate(Flag):
    """How far a step may go now."""

    SHUT = 0
    NEW_ONLY = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """A step, the steps of other types that must be confirmed before, and whether it breaks something."""

    type_url: str
    action: Action
    after: tuple[tuple[str, Action], ...] = ()
    breaks: bool = False


_MADE: Final = ((CLUSTER, Action.UPSERT), (ENDPOINTS, Action.UPSERT))

STEPS: Final = (
    Step(SECRET, Action.BOTH),
    # Who is asked knows the answer before somebody asks, and as long as somebody may.
    Step(DECISIONS, Action.UPSERT),
    Step(EXTENSION, Action.UPSERT),
    Step(CLUSTER, Action.UPSERT),
    Step(ENDPOINTS, Action.UPSERT),
    Step(LISTENER, Action.BOTH, after=_MADE),
    Step(ROUTES, Action.UPSERT, after=_MADE),
    Step(ROUTES, Action.REMOVE, after=((LISTENER, Action.BOTH),), breaks=True),
    Step(EXTENSION, Action.REMOVE, after=((LISTENER, Action.BOTH),), breaks=True),
    Step(DECISIONS, Action.REMOVE, after=((EXTENSION, Action.UPSERT), (LISTENER, Action.BOTH)), breaks=True),
    Step(CLUSTER, Action.REMOVE, after=((LISTENER, Action.BOTH), (ROUTES, Action.UPSERT)), breaks=True),
    Step(ENDPOINTS, Action.REMOVE, after=((CLUSTER, Action.BOTH),), breaks=True),
)
_ORDERED: Final = frozenset(step.type_url for step in STEPS)


def steps_for(types: Mapping[str, Subscription]) -> tuple[Step, ...]:
    """The steps for a stream with these subscriptions; types without an order of their own come last."""
    ordered = tuple(step for step in STEPS if step.type_url in types)
    return ordered + tuple(Step(url, Action.BOTH) for url in types if url not in _ORDERED)


def gate(step: Step, types: Mapping[str, Subscription]) -> Gate:
    """How far a step may go.

    A refusal in an earlier step holds back changes of what is served already, which might need what was refused,
    until a snapshot comes that is accepted.  What is new has nothing to lose.
    """
    refusals = False
    for type_url, action in step.after:
        earlier = types.get(type_url)
        if earlier is None:
            continue
        if Action.UPSERT in action and not earlier.upserts_done:
            return Gate.SHUT
        if Action.REMOVE in action and not earlier.removals_done:
            return Gate.SHUT
        refusals = refusals or bool(earlier.refusals)
    if not refusals:
        return Gate.OPEN
    return Gate.SHUT if step.breaks else Gate.NEW_ONLY
