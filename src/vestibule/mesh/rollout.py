"""How a new intent reaches the proxies: a state machine that knows no proxies, no files and no clock.

``TABLE`` is all of it.  A version is *offered* when the source has a new one, *watched* when its wave was watched for
long enough, and *failed* when a proxy refused it, requests fail that did not fail before, or proxies fall silent.
Versions are names; who has which intent and when something counts as watched or failed is for others to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final

from vestibule.mesh.codes import NOTHING_TO_ROLL


class Phase(Enum):
    """Who has what.

    ``STEADY``: all proxies have the good intent.  ``FIRST``: the first wave tries a new one.  ``REST``: all of them
    try it.  ``REFUSED``: all have the good one, since the newest failed.  ``PINNED``: all have the one that an
    operator rolled back to, whatever the source says.
    """

    STEADY = "steady"
    FIRST = "first-wave"
    REST = "all"
    REFUSED = "refused"
    PINNED = "pinned"


class Happening(Enum):
    """What can happen.  ``OFFERED``: the source has a version that is not the good one; ``REVERTED``: it has that."""

    OFFERED = "offered"
    REVERTED = "reverted"
    WATCHED = "watched"
    FAILED = "failed"
    ROLL_BACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"


class Move(Enum):
    """What is done about it."""

    NOTHING = "nothing"
    TRY = "try the newest: first wave, or all if there are no waves"
    WIDEN = "all proxies try it"
    ACCEPT = "the newest is good"
    GO_BACK = "all proxies have the good one, and the newest is refused"
    DROP = "all proxies have the good one, which is the newest again"
    PIN = "all proxies have the one that is rolled back to, which is now the good one"
    PAUSE = "no new version is tried and no wave follows"
    RESUME = "go on where it was paused, and watch from now"
    NOT_NOW = "refused: there is nothing to do it to"


P, H, M = Phase, Happening, Move

TABLE: Final[Mapping[Phase, Mapping[Happening, Move]]] = {
    P.STEADY: {
        H.OFFERED: M.TRY,
        H.REVERTED: M.NOTHING,
        H.WATCHED: M.NOTHING,
        H.FAILED: M.NOTHING,
        H.ROLL_BACK: M.PIN,
        H.PAUSE: M.PAUSE,
        H.RESUME: M.NOT_NOW,
        H.PROMOTE: M.NOT_NOW,
    },
    P.FIRST: {
        H.OFFERED: M.TRY,
        H.REVERTED: M.DROP,
        H.WATCHED: M.WIDEN,
        H.FAILED: M.GO_BACK,
        H.ROLL_BACK: M.PIN,
        H.PAUSE: M.PAUSE,
        H.RESUME: M.NOT_NOW,
        H.PROMOTE: M.ACCEPT,
    },
    P.REST: {
        H.OFFERED: M.TRY,
        H.REVERTED: M.DROP,
        H.WATCHED: M.ACCEPT,
        H.FAILED: M.GO_BACK,
        H.ROLL_BACK: M.PIN,
        H.PAUSE: M.PAUSE,
        H.RESUME: M.NOT_NOW,
        H.PROMOTE: M.ACCEPT,
    },
    P.REFUSED: {
        H.OFFERED: M.TRY,
        H.REVERTED: M.DROP,
        H.WATCHED: M.NOTHING,
        H.FAILED: M.NOTHING,
        H.ROLL_BACK: M.PIN,
        H.PAUSE: M.PAUSE,
        H.RESUME: M.TRY,
        H.PROMOTE: M.ACCEPT,
    },
    P.PINNED: {
        H.OFFERED: M.TRY,
        H.REVERTED: M.DROP,
        H.WATCHED: M.NOTHING,
        H.FAILED: M.NOTHING,
        H.ROLL_BACK: M.PIN,
        H.PAUSE: M.PAUSE,
        H.RESUME: M.TRY,
        H.PROMOTE: M.ACCEPT,
    },
}
"""What is done in each phase about each happening, while nothing is paused."""

PAUSED: Final[Mapping[Happening, Move]] = {
    H.OFFERED: M.NOTHING,
    H.REVERTED: M.NOTHING,
    H.WATCHED: M.NOTHING,
    H.PAUSE: M.NOTHING,
    H.RESUME: M.RESUME,
    H.PROMOTE: M.ACCEPT,
}
"""What is done instead while the rollout is paused; what is not named here goes by ``TABLE``: back always works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far the rollout is.

    ``good`` is what proxies go back to, ``head`` what the source offered last.  ``trial`` is set in ``FIRST`` and
    ``REST``, ``wave`` (IDs of instances) in ``FIRST``.  ``since`` is when the phase began.  ``reason`` and ``actor``
    tell of ``REFUSED`` and ``PINNED``, and ``failed`` which version that was about.  ``paused`` is who paused it and
    why, empty while it is not.
    """

    good: str | None = None
    head: str | None = None
    phase: Phase = Phase.STEADY
    trial: str | None = None
    wave: frozenset[str] = frozenset()
    since: datetime | None = None
    paused: str = ""
    reason: str = ""
    actor: str = ""
    failed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something happened.

    ``version`` is what is offered, rolled back to, or was watched or failed.  ``wave`` are the instances that have
    first what is tried now; None: all at once.
    """

    what: Happening
    now: datetime
    version: str | None = None
    wave: frozenset[str] | None = None
    reason: str = ""
    actor: str = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The state after an event, and what was done about it."""

    state: State
    move: Move


def step(state: State, event: Event) -> Step:
    """What follows from an event.  Raises: VST3240 when an operator asks for what cannot be done now."""
    if event.what in (H.OFFERED, H.REVERTED):
        if event.version == state.head:
            return Step(state=state, move=M.NOTHING)
        state = replace(state, head=event.version)
    if event.what in (H.WATCHED, H.FAILED) and event.version not in (None, state.trial):
        # It was said of what is not tried any more.
        return Step(state=state, move=M.NOTHING)
    move = _move(state, event)
    return Step(state=_MOVES[move](state, event), move=move)


def version_for(state: State, instance_id: str, *, is_known: bool = True) -> str | None:
    """The version that a proxy is to have; ``is_known``: whether the good intent has its service at all."""
    if state.phase is P.REST or (state.phase is P.FIRST and (instance_id in state.wave or not is_known)):
        return state.trial
    return state.good


def _move(state: State, event: Event) -> Move:
    move = TABLE[state.phase][event.what]
    if state.paused:
        move = PAUSED.get(event.what, move)
    if event.what is H.ROLL_BACK and event.version == state.good and state.trial is None:
        raise NOTHING_TO_ROLL.error(f"all proxies are to have {event.version} already")
    if event.what is H.PROMOTE and state.head in (None, state.good):
        raise NOTHING_TO_ROLL.error(f"version {state.good} is good, and the source has no other")
    if move is M.NOT_NOW:
        raise NOTHING_TO_ROLL.error("the rollout is not paused, and nothing is held back")
    if move is M.TRY and state.head in (None, state.good):
        # An operator chose what the source has; or it has not been heard of yet.
        return M.DROP
    if state.good is None and state.head is not None and move in (M.TRY, M.RESUME):
        # The very first: there is nothing to go back to, so there is nothing to be tried.
        return M.ACCEPT
    if move is M.RESUME and state.head not in (None, state.trial or state.good):
        # A version came, or went away again, while it was paused.
        return M.DROP if state.head == state.good else M.TRY
    return move


def _nothing(state: State, _event: Event) -> State:
    return state


def _try(state: State, event: Event) -> State:
    return replace(
        _calm(state, event),
        phase=P.REST if event.wave is None else P.FIRST,
        trial=state.head,
        wave=event.wave or frozenset(),
    )


def _widen(state: State, event: Event) -> State:
    return replace(state, phase=P.REST, wave=frozenset(), since=event.now)


def _accept(state: State, event: Event) -> State:
    accepted = replace(_calm(state, event), good=state.trial if event.what is H.WATCHED else state.head)
    # Who promotes one version while paused wants this one, not the next.
    return replace(accepted, paused="" if event.what is H.RESUME else state.paused)


def _go_back(state: State, event: Event) -> State:
    failed = replace(_calm(state, event), phase=P.REFUSED, failed=state.trial)
    return replace(failed, reason=event.reason, actor=event.actor, paused=state.paused)


def _drop(state: State, event: Event) -> State:
    return _calm(state, event)


def _pin(state: State, event: Event) -> State:
    failed = state.trial or state.good
    pinned = replace(_calm(state, event), phase=P.PINNED, good=event.version, failed=failed)
    return replace(pinned, reason=event.reason, actor=event.actor, paused=state.paused)


def _pause(state: State, event: Event) -> State:
    return replace(state, paused=f"{event.actor}: {event.reason}" if event.reason else event.actor)


def _resume(state: State, event: Event) -> State:
    return replace(state, paused="", since=event.now)


def _calm(state: State, event: Event) -> State:
    return State(good=state.good, head=state.head, since=event.now)


_MOVES: Final = {
    M.NOTHING: _nothing,
    M.TRY: _try,
    M.WIDEN: _widen,
    M.ACCEPT: _accept,
    M.GO_BACK: _go_back,
    M.DROP: _drop,
    M.PIN: _pin,
    M.PAUSE: _pause,
    M.RESUME: _resume,
}
