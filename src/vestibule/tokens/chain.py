"""Who acts for whom (RFC 8693, section 4.1): the outermost actor is the newest, and the only one that decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestibule.spiffe import SpiffeId
from vestibule.tokens.codes import CHAIN_LOOPS, CHAIN_TOO_LONG, NOT_THE_ACTOR


def actors_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Who acts by a token of ours, the newest first: nobody but its subject, where that is its client."""
    found: list[str] = []
    act = claims.get("act")
    while isinstance(act, dict):
        found.append(str(act.get("sub")))
        act = act.get("act")
    if not found and claims.get("client_id") != claims.get("sub"):
        found.append(str(claims.get("client_id")))
    return tuple(found)


def presenter_of(claims: Mapping[str, Any]) -> str:
    """Who may show a token of ours: whom it was given to."""
    return next(iter(actors_of(claims)), str(claims.get("client_id")))


def lengthened(claims: Mapping[str, Any], asker: SpiffeId, depth: int) -> tuple[str, ...]:
    """The actors of a token that ``asker`` gets for one with these claims.  Raises: VST6017, VST6018."""
    actors, name = actors_of(claims), str(asker)
    if name in actors or name == claims.get("sub"):
        raise CHAIN_LOOPS.error(f"{name} is in the token's chain already")
    if len(actors) >= depth:
        raise CHAIN_TOO_LONG.error(f"{len(actors)} act already, and a chain may have {depth}")
    return (name, *actors)


def act_of(actors: tuple[str, ...]) -> dict[str, Any]:
    """The claim ``act`` of actors, the newest first."""
    act: dict[str, Any] = {}
    for each in reversed(actors):
        act = {"sub": each, "act": act} if act else {"sub": each}
    return act


def named_actor(claims: Mapping[str, Any], asker: SpiffeId) -> bool:
    """Whether the token itself says that ``asker`` may act with it (section 4.4); False where it names nobody.

    Raises: VST6019 where it names somebody else.
    """
    may_act = claims.get("may_act")
    if may_act is None:
        return False
    if not isinstance(may_act, dict) or may_act.get("sub") != str(asker):
        raise NOT_THE_ACTOR.error(f"the token names another than {asker} to act with it")
    return True
