"""Whatever is not success is a failure, with the reason."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from vestibule.app.up.codes import INTERRUPTED
from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Outcome, Proof, outcome_of, refusal
from vestibule.app.up.proofs.scene import Scene

SCENE = cast(Scene, None)


def proof_that(raises: Exception) -> Proof:
    async def attempt(_: Scene) -> str:
        raise raises

    return Proof(id="p", claim="c", attempt=attempt)


async def outcome(raises: Exception) -> Outcome:
    return await outcome_of(proof_that(raises), SCENE)


async def test_success_tells_what_was_seen() -> None:
    async def attempt(_: Scene) -> str:
        return "seen"

    found = await outcome_of(Proof(id="p", claim="c", attempt=attempt), SCENE)
    assert (found.id, found.claim, found.ok, found.detail) == ("p", "c", True, "seen")


@pytest.mark.parametrize(
    ("raises", "detail"),
    [
        (Disproved("it answered"), "it answered"),
        (CannotTry("no edge"), "could not be tried: no edge"),
        (NoAnswer("hung up"), "no answer: hung up"),
        (INTERRUPTED.error("a signal"), "VST7304 a signal"),
        (TimeoutError(), "a step was not over in time"),
        (KeyError("x"), "the proof itself broke: KeyError: 'x'"),
    ],
)
async def test_anything_else_is_a_failure_with_its_reason(raises: Exception, detail: str) -> None:
    found = await outcome(raises)
    assert not found.ok
    assert found.detail.startswith(detail)


async def test_a_proof_that_hangs_has_failed() -> None:
    async def attempt(_: Scene) -> str:
        await asyncio.Event().wait()
        return "never"

    found = await outcome_of(Proof(id="p", claim="c", attempt=attempt), SCENE, patience=0.01)
    assert not found.ok
    assert "not over after 0.01 s" in found.detail


async def test_cancelling_is_not_an_outcome() -> None:
    with pytest.raises(asyncio.CancelledError):
        await outcome(asyncio.CancelledError())  # type: ignore[arg-type]


def test_hanging_up_is_a_refusal_and_silence_is_none() -> None:
    assert refusal(NoAnswer("closed"), "who") == "closed"
    with pytest.raises(Disproved, match="neither answered nor refused"):
        refusal(NoAnswer("nothing", silence=True), "who")
