"""Proofs about calls, against meshes that break their promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.app.up.proofs.stage import (
    ORDERS,
    REPORTS,
    Stage,
    answer,
    fails,
    holds,
    listening,
    refused,
    result,
)

from vestibule.app.up.dialling import Answer, NoAnswer
from vestibule.app.up.proofs import call_allowed, call_denied, foreign_ca_refused, plaintext_refused
from vestibule.app.up.proofs.proof import CannotTry


async def test_allowed_calls_hold_when_the_callee_saw_the_caller() -> None:
    assert "orders → payments" in await holds(call_allowed.attempt, Stage())


async def test_an_allowed_call_that_is_not_answered_with_success_fails() -> None:
    stage = Stage()
    stage.call = lambda *_: result(answer(503))  # type: ignore[method-assign]
    await fails(call_allowed.attempt, stage, "was answered 503")


async def test_an_edge_that_never_answered_fails() -> None:
    await fails(call_allowed.attempt, Stage(silent=("web → orders: 404",)), "web → orders: 404")


async def test_a_callee_that_saw_somebody_else_fails() -> None:
    stage = Stage()
    stage.noted = lambda record: replace(record, source_spiffe_id=str(REPORTS))  # type: ignore[method-assign]
    await fails(call_allowed.attempt, stage, f"saw {REPORTS}")


async def test_an_app_that_was_told_another_caller_fails() -> None:
    await fails(call_allowed.attempt, Stage(echo=f"By=spiffe://x/y;URI={REPORTS}"), f"saw {REPORTS}")
    await fails(call_allowed.attempt, Stage(echo=f"URI={ORDERS}-2"), "orders-2")
    assert "told by the app" in await holds(call_allowed.attempt, Stage(echo=f"URI={ORDERS}"))


async def test_an_allowed_call_in_no_record_fails() -> None:
    stage = Stage()
    stage.noted = lambda record: replace(record, request_id="another")  # type: ignore[method-assign]
    await fails(call_allowed.attempt, stage, "in no access record")


async def test_denied_calls_hold_when_both_ways_are_refused() -> None:
    assert "403 VST4001" in await holds(call_denied.attempt, Stage())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(200), "not 403"),
        (answer(403, "no"), "names no code"),
        (answer(403, '{"error": "denied"}'), "names no code"),
        (refused("another"), "request id 'another'"),
    ],
)
async def test_a_denial_has_to_be_complete_on_both_ways(given: Answer, why: str) -> None:
    lax_caller, lax_callee = Stage(), Stage()
    lax_caller.at_egress = lambda _: given  # type: ignore[method-assign]
    lax_callee.to_strangers = lambda *_: given  # type: ignore[method-assign]
    await fails(call_denied.attempt, lax_caller, why)
    await fails(call_denied.attempt, lax_callee, why)


async def test_a_denial_that_is_not_on_record_fails() -> None:
    stage = Stage()
    stage.to_strangers = lambda _, request_id: refused(request_id)  # type: ignore[method-assign]
    await fails(call_denied.attempt, stage, "not in its access records")


async def test_without_a_pair_to_deny_there_is_no_proof() -> None:
    with pytest.raises(CannotTry):
        await holds(call_denied.attempt, Stage(denied=()))


async def test_a_foreign_authority_is_refused() -> None:
    assert "TLS: alert" in await holds(foreign_ca_refused.attempt, Stage())


@pytest.mark.parametrize("status", [200, 403])
async def test_any_answer_to_a_foreign_authority_fails(status: int) -> None:
    stage = Stage()
    stage.to_forgers = lambda _: answer(status)  # type: ignore[method-assign]
    await fails(foreign_ca_refused.attempt, stage, "was answered by payments")


async def test_silence_towards_a_foreign_authority_fails() -> None:
    def silence(_: str | None) -> Answer:
        raise NoAnswer("nothing", silence=True)

    stage = Stage()
    stage.to_forgers = silence  # type: ignore[method-assign]
    await fails(foreign_ca_refused.attempt, stage, "neither answered nor refused")


async def test_a_callee_that_refuses_everybody_fails() -> None:
    stage = Stage()
    stage.to_orders = lambda: answer(503)  # type: ignore[method-assign]
    await fails(foreign_ca_refused.attempt, stage, "also refuses")


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "403 Forbidden"])
async def test_any_answer_to_plain_http_fails(status: str) -> None:
    with listening(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode()) as address:
        await fails(plaintext_refused.attempt, Stage(address=address), "answered plain HTTP")


async def test_hanging_up_on_plain_http_holds_only_if_tls_is_answered() -> None:
    with listening(b"") as address:
        assert "by mutual TLS" in await holds(plaintext_refused.attempt, Stage(address=address))
        stage = Stage(address=address)
        stage.to_orders = lambda: answer(503)  # type: ignore[method-assign]
        await fails(plaintext_refused.attempt, stage, "also refuses mutual TLS")
