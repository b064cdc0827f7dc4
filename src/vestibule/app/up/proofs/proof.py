"""What a proof is: a claim, a way to try it, and an outcome that can be false."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.proofs.scene import Scene
from vestibule.errors import VestibuleError

PATIENCE: Final = 60.0
"""Seconds after which a proof has failed, whatever it waits for."""

_log = logging.getLogger(__name__)


class Disproved(Exception):  # noqa: N818 - it is an outcome
    """The claim does not hold; the text says what was seen instead."""


class CannotTry(Exception):  # noqa: N818 - it is an outcome
    """Something that the proof needs is not there; the text says what.  A proof not tried does not hold."""


def refusal(error: NoAnswer, who: str) -> str:
    """How a connection was refused.  Raises: Disproved if it was not: silence is no refusal."""
    if error.silence:
        raise Disproved(f"{who} was neither answered nor refused: {error}")
    return str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One claim.  ``attempt`` returns what was seen when it holds, and raises ``Disproved`` when it does not.

    Whatever an attempt takes away it puts back, so that the proofs after it start from a whole mesh.
    """

    id: str
    claim: str
    attempt: Callable[[Scene], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a proof went."""

    id: str
    claim: str
    ok: bool
    detail: str
    seconds: float


async def outcome_of(proof: Proof, scene: Scene, patience: float = PATIENCE) -> Outcome:
    """Try a proof.  Everything but success is a failure, also an error nobody foresaw."""
    began = time.monotonic()
    ok, detail = await _try(proof, scene, patience)
    return Outcome(
        id=proof.id, claim=proof.claim, ok=ok, detail=detail, seconds=round(time.monotonic() - began, 2)
    )


async def _try(proof: Proof, scene: Scene, patience: float) -> tuple[bool, str]:
    deadline = asyncio.timeout(patience)
    try:
        async with deadline:
            return True, await proof.attempt(scene)
    except Disproved as error:
        return False, str(error)
    except CannotTry as error:
        return False, f"could not be tried: {error}"
    except NoAnswer as error:
        return False, f"no answer: {error}"
    except VestibuleError as error:
        return False, f"{error} ({error.advice})"
    except TimeoutError:
        return (
            False,
            f"not over after {patience:g} s" if deadline.expired() else "a step was not over in time",
        )
    except Exception as error:  # noqa: BLE001 - a proof that breaks proves nothing; the others still can
        _log.exception("proof %s broke", proof.id)
        return False, f"the proof itself broke: {type(error).__name__}: {error}"
