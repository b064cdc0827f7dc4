"""Nothing is answered without a decision and a record, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.doors.vault.operations import Answer, Caller, Operation, Owned, VaultRequest
from vestibule.doors.vault.pipeline import Pipeline, operators_of
from vestibule.errors import VestibuleError
from vestibule.secrets.ports import Verb
from vestibule.spiffe import SpiffeId
from vestibule.store.codes import CONFLICT
from vestibule.testing.barrier import TableAccess

ANN = SpiffeId.parse("spiffe://example.org/ann")
BEN = SpiffeId.parse("spiffe://example.org/ben")


class Log:
    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.room = 1000

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.room < len(events):
            raise AUDIT_UNAVAILABLE.error("the disk is full")
        self.room -= len(events)
        self.events += events

    @property
    def outcomes(self) -> list[str]:
        return [each.outcome for each in self.events]


class Engine:
    """Answers by what ``made`` says; ``runs`` counts how often it did."""

    def __init__(self, **made: Any) -> None:
        self.made = made
        self.runs = 0
        self.failure: Exception | None = None

    def operation(self, request: VaultRequest) -> Operation | None:
        async def run() -> Answer:
            self.runs += 1
            if self.failure is not None:
                raise self.failure
            return Answer(data={"x": "swordfish"}, detail={"version": 3})

        if request.path == "secret/none":
            return None
        return Operation(verb=Verb.READ, resource="secret/a", run=run, **self.made)


class Scene:
    def __init__(self, *, operators: frozenset[SpiffeId] = frozenset(), **made: Any) -> None:
        self.log, self.engine = Log(), Engine(**made)
        self.access = TableAccess({(ANN, Verb.READ, "secret/a"): "group/own"})
        self.pipeline = Pipeline(
            {"secret": self.engine},
            self.access,
            self.log,
            is_operator=lambda request: request.caller.spiffe_id in operators,
        )

    async def ask(self, who: SpiffeId, path: str = "secret/a", **more: Any) -> Answer:
        request = VaultRequest(method="GET", path=path, caller=Caller(spiffe_id=who), request_id="r", **more)
        answer, _ = await self.pipeline.answer(request)
        return answer

    async def refused(self, who: SpiffeId, path: str = "secret/a", **more: Any) -> VestibuleError:
        with pytest.raises(VestibuleError) as caught:
            await self.ask(who, path, **more)
        return caught.value


async def test_an_answer_is_on_record_with_rule_and_version_and_without_the_value() -> None:
    scene = Scene()
    await scene.ask(ANN)
    (event,) = scene.log.events
    assert (event.actor, event.action, event.subject) == (str(ANN), "secret.read", "secret/a")
    assert (event.details["rule"], event.details["version"], event.details["request_id"]) == (
        "group/own",
        3,
        "r",
    )
    assert "swordfish" not in repr(event)


async def test_a_refusal_is_on_record_and_nothing_is_done() -> None:
    scene = Scene(changes=True)
    error = await scene.refused(BEN)
    assert (error.code.code, scene.engine.runs, scene.log.outcomes) == ("VST5300", 0, ["denied"])
    assert "no rule allows it" in error.message


async def test_a_change_is_on_record_before_and_after() -> None:
    scene = Scene(changes=True)
    await scene.ask(ANN)
    assert scene.log.outcomes == ["requested", "ok"]


@pytest.mark.parametrize(("room", "changes", "runs"), [(0, True, 0), (1, True, 1), (0, False, 1)])
async def test_what_cannot_be_recorded_is_not_answered(room: int, changes: bool, runs: int) -> None:
    scene = Scene(changes=changes)
    scene.log.room = room
    error = await scene.refused(ANN)
    assert (error.code, scene.engine.runs) == (AUDIT_UNAVAILABLE, runs)


async def test_failures_are_on_record_foreseen_or_not() -> None:
    scene = Scene()
    scene.engine.failure = CONFLICT.error("changed")
    assert (await scene.refused(ANN)).code is CONFLICT
    scene.engine.failure = ValueError("swordfish")
    error = await scene.refused(ANN)
    assert (error.code.code, scene.log.outcomes) == ("VST9000", ["error", "error"])
    assert "swordfish" not in error.message + repr(scene.log.events)


async def test_what_is_for_administrators_no_rule_opens() -> None:
    scene = Scene(operators=frozenset({BEN}))
    scene.engine.made = {"operators": True}
    assert (await scene.refused(ANN)).code.code == "VST5206"
    assert (await scene.ask(BEN)).data == {"x": "swordfish"}


async def test_an_owner_needs_no_rule_and_a_revoked_rule_takes_what_asks_for_one() -> None:
    async def owner() -> SpiffeId | None:
        return BEN

    scene = Scene(owned=Owned(owner=owner))
    assert (await scene.ask(BEN)).data
    scene.engine.made = {"owned": Owned(owner=owner, verb=Verb.READ)}
    assert (await scene.refused(BEN)).code.code == "VST5300"


async def test_who_waited_is_decided_about_again() -> None:
    scene = Scene(waits=True)
    scene.engine.failure = None
    rules: Mapping[Any, str] = dict(scene.access.rules)

    class Withdrawing(Engine):
        def operation(self, request: VaultRequest) -> Operation | None:
            scene.access.rules = dict(rules)

            async def run() -> Answer:
                scene.access.rules = {}
                return Answer(data={"x": "swordfish"})

            return Operation(verb=Verb.READ, resource="secret/a", run=run, waits=True)

    scene.pipeline.backends["secret"] = Withdrawing()
    assert (await scene.refused(ANN)).code.code == "VST5300"
    assert scene.log.outcomes == ["error"]


async def test_what_cannot_be_wrapped_is_not_answered_in_clear() -> None:
    scene = Scene()
    error = await scene.refused(ANN, wrap_ttl=timedelta(seconds=60))
    assert (error.code.code, scene.engine.runs) == ("VST5203", 0)


@pytest.mark.parametrize("path", ["secret/none", "nowhere", "nowhere/a"])
async def test_there_is_nothing_at_other_paths(path: str) -> None:
    assert (await Scene().refused(ANN, path)).code.code == "VST5205"


async def test_what_probes_ask_is_not_recorded() -> None:
    scene = Scene(open=True, recorded=False)
    await scene.ask(BEN)
    assert scene.log.events == []
    assert await scene.pipeline.may(
        VaultRequest(method="GET", path="secret/a", caller=Caller(spiffe_id=BEN), request_id="r")
    )


async def test_what_makes_no_sense_is_on_record_too() -> None:
    scene = Scene()
    error = await scene.refused(ANN, "secret/none")
    (event,) = scene.log.events
    assert (event.actor, event.subject, event.outcome) == (str(ANN), "secret/none", "refused")
    assert event.details["code"] == error.code.code == "VST5205"


async def test_who_is_revoked_while_waiting_gets_no_answer() -> None:
    async def nobody() -> Caller:
        raise NO_CALLER.error("it is revoked")

    scene = Scene(waits=True)
    error = await scene.refused(ANN, caller_now=nobody)
    assert (error.code, scene.engine.runs, scene.log.outcomes) == (NO_CALLER, 1, ["error"])


async def _kept(told: Mapping[str, Any], _request: VaultRequest, _ttl: timedelta) -> Mapping[str, Any]:
    return {"told": told}


@pytest.mark.parametrize(
    ("answer", "wrapped"),
    [
        (Answer(top={"keys": ["a share"]}), True),
        (Answer(auth={"client_token": "t"}), True),
        (Answer(top={"wrap_info": {"token": "t"}}), False),
        (Answer(status=404), False),
    ],
)
async def test_whatever_was_to_be_wrapped_is_not_answered_in_clear(answer: Answer, wrapped: bool) -> None:
    async def run() -> Answer:
        return answer

    class Shares:
        def operation(self, _request: VaultRequest) -> Operation:
            return Operation(verb=Verb.READ, resource="sys/x", run=run, open=True)

    pipeline = Pipeline(
        {"sys": Shares()}, TableAccess({}), Log(), is_operator=lambda _request: False, wrap=_kept
    )
    request = VaultRequest(
        method="GET", path="sys/x", caller=Caller(spiffe_id=ANN), wrap_ttl=timedelta(minutes=1)
    )
    _, kept = await pipeline.answer(request)
    assert (kept is not None) is wrapped


def test_who_shows_a_token_is_no_administrator() -> None:
    is_operator = operators_of(lambda _: True)
    for via, expected in (("mtls", True), ("token", False), ("jwt-svid", False)):
        caller = Caller(spiffe_id=SpiffeId.parse("spiffe://example.org/admin"), via=via)
        assert is_operator(VaultRequest(method="POST", path="sys/seal", caller=caller)) is expected
