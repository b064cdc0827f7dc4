"""Proofs about changes and outages, against meshes that break their promise; and proofs without a mesh."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.app.up.proofs.stage import (
    PAYMENTS,
    Attempt,
    Entered,
    Stage,
    answer,
    fails,
    holds,
    result,
    seen,
)

from vestibule.app.up.dialling import Answer, Handshake
from vestibule.app.up.edges import Request
from vestibule.app.up.proofs import (
    call_allowed,
    call_denied,
    foreign_ca_refused,
    identity_attested,
    plaintext_refused,
    policy_live,
    rotation_lossless,
    server_outage_survived,
    wrong_identity_refused,
)
from vestibule.app.up.proofs.proof import CannotTry
from vestibule.observe.access_record import AccessRecord


@dataclass
class FollowsTheFile(Entered):
    """A connection whose proxy reads the policy file, ``late`` requests behind; it may also never look."""

    file: Path
    late: int = 0
    blind: bool = False

    def ask(self, _: str, __: Request) -> Answer:
        removed = b"charge" not in self.file.read_bytes()
        if removed and self.late:
            self.late -= 1
            return answer(200)
        return answer(403 if removed and not self.blind else 200)

    def close(self) -> None:
        return


def policy_stage(tmp_path: Path, **direct: Any) -> Stage:
    (tmp_path / "services").mkdir()
    file = tmp_path / "services" / "payments.yaml"
    file.write_bytes(PAYMENTS)
    stage = Stage(directory=tmp_path)
    stage.dial = lambda *_: result(SimpleNamespace(connection=FollowsTheFile(file, **direct)))  # type: ignore[attr-defined]
    stage.open_way_out = lambda _: result(FollowsTheFile(file))  # type: ignore[attr-defined]
    return stage


async def test_a_policy_that_is_felt_at_once_holds_and_is_put_back(tmp_path: Path) -> None:
    stage = policy_stage(tmp_path)
    assert "payments/charge" in await holds(policy_live.attempt, stage)
    assert (tmp_path / "services" / "payments.yaml").read_bytes() == PAYMENTS


async def test_a_callee_that_does_not_feel_it_fails_whatever_the_caller_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_live, "WITHIN", 0.1)
    await fails(policy_live.attempt, policy_stage(tmp_path, blind=True), "direct connection is not denied")
    assert (tmp_path / "services" / "payments.yaml").read_bytes() == PAYMENTS


async def test_a_policy_that_is_felt_too_late_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_live, "PROMISE", 0.02)
    await fails(policy_live.attempt, policy_stage(tmp_path, late=5), "denied only")


@dataclass
class CountedLoad(Entered):
    succeeded: int = 1000
    failures: int = 0

    def __post_init__(self) -> None:
        self.failed: Any = Counter({"503": self.failures}) if self.failures else Counter()


def rotation_stage(monkeypatch: pytest.MonkeyPatch, load: CountedLoad, *, rotates: bool) -> Stage:
    monkeypatch.setattr(rotation_lossless, "Load", lambda *_: load)
    monkeypatch.setattr(rotation_lossless, "WITHIN", 0.3)
    monkeypatch.setattr(rotation_lossless, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(rotation_lossless, "_LONG", timedelta(seconds=1))
    stage = Stage()
    fixed = stage.authority.svid(stage.identity("payments"))
    number = iter(range(10_000))

    async def records(_: datetime) -> list[AccessRecord]:
        return [seen(peer_serial=f"caller-{next(number) if rotates else 0}")]

    async def dial(*_: object) -> Handshake:
        svid = stage.authority.svid(fixed.spiffe_id) if rotates else fixed
        return Handshake(connection=cast(Any, SimpleNamespace(close=lambda: None)), chain=svid.chain)

    stage.records, stage.dial = records, dial  # type: ignore[attr-defined]
    return stage


async def test_rotations_without_a_failed_request_hold_and_the_lifetime_is_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = rotation_stage(monkeypatch, CountedLoad(), rotates=True)
    assert "none failed" in await holds(rotation_lossless.attempt, stage)
    assert stage.operator.ttls == [rotation_lossless.TTL_SECONDS, 0]


@pytest.mark.parametrize(
    ("load", "rotates", "why"),
    [
        (CountedLoad(failures=1), True, "1 of 1001 requests failed: 1 × 503"),
        (CountedLoad(), False, "0 new certificates"),
        (CountedLoad(succeeded=3), True, "only 3 requests"),
    ],
)
async def test_a_lost_request_or_no_rotation_fails(
    monkeypatch: pytest.MonkeyPatch, load: CountedLoad, rotates: bool, why: str
) -> None:
    stage = rotation_stage(monkeypatch, load, rotates=rotates)
    await fails(rotation_lossless.attempt, stage, why)
    assert stage.operator.ttls == [rotation_lossless.TTL_SECONDS, 0]


@dataclass
class Mesh:
    """Server, agent and Envoys that can be taken away; ``breaks`` is when calls stop being served."""

    breaks: str = ""
    lax: bool = False
    deaf: bool = False
    happened: list[str] = field(default_factory=list)

    def part(self, name: str) -> SimpleNamespace:
        async def take_away() -> None:
            self.happened.append(f"{name} away")

        async def crash() -> None:
            self.happened.append(f"{name} crashed")

        return SimpleNamespace(
            take_away=take_away,
            crash=crash,
            put_back=lambda: self.happened.append(f"{name} back"),
            became_ready=lambda: result(None),
        )


def outage_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mesh: Mesh) -> Stage:
    monkeypatch.setattr(server_outage_survived, "SYNC_WITHIN", 0.2)
    monkeypatch.setattr(server_outage_survived, "BACK_WITHIN", 0.2)
    monkeypatch.setattr(server_outage_survived, "KEPT_WITHIN", 0.0)
    monkeypatch.setattr(server_outage_survived, "envoys_of", lambda _: {2})

    async def kill(_: object) -> set[int]:
        mesh.happened.append("envoy killed")
        return {1}

    monkeypatch.setattr(server_outage_survived, "kill_envoys_of", kill)
    (tmp_path / "services").mkdir()
    file = tmp_path / "services" / "payments.yaml"
    file.write_bytes(PAYMENTS)
    stage = Stage(directory=tmp_path)
    stage.mesh.server, stage.mesh.agent = mesh.part("server"), mesh.part("agent")
    stage.mesh.sidecar_of = lambda name: name
    stage.mesh.places = SimpleNamespace(agent_data=tmp_path / "agent")
    (tmp_path / "agent" / "proxies").mkdir(parents=True)
    stage.mesh.operator.status = lambda: result(SimpleNamespace(proxies=()))

    async def call(*_: object) -> Answer:
        if mesh.breaks and mesh.breaks in mesh.happened and "server back" not in mesh.happened:
            return answer(503)
        removed = b"charge" not in file.read_bytes()
        return answer(403 if removed and not mesh.deaf else 200)

    stage.call = call  # type: ignore[method-assign, assignment]
    if mesh.lax:
        stage.to_strangers = lambda *_: answer(200)  # type: ignore[method-assign]
    return stage


async def test_an_outage_that_nobody_feels_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh()
    assert "a change arrived" in await holds(
        server_outage_survived.attempt, outage_stage(tmp_path, monkeypatch, mesh)
    )
    assert mesh.happened == ["server away", "agent crashed", "envoy killed", "envoy killed", "server back"]


@pytest.mark.parametrize(
    ("mesh", "why"),
    [
        (Mesh(breaks="server away"), "with the server gone, orders → payments was answered 503"),
        (Mesh(breaks="agent crashed"), "with the agent restarted"),
        (Mesh(breaks="envoy killed"), "not served"),
        (Mesh(lax=True), "the restarted Envoy of payments answered"),
        (Mesh(deaf=True), "a removed rule is not felt"),
    ],
)
async def test_an_outage_that_is_felt_fails_and_the_server_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mesh: Mesh, why: str
) -> None:
    await fails(server_outage_survived.attempt, outage_stage(tmp_path, monkeypatch, mesh), why)
    assert mesh.happened[-1] == "server back"


@pytest.mark.parametrize(
    "attempt",
    [
        call_allowed.attempt,
        call_denied.attempt,
        plaintext_refused.attempt,
        foreign_ca_refused.attempt,
        wrong_identity_refused.attempt,
        rotation_lossless.attempt,
        policy_live.attempt,
        server_outage_survived.attempt,
        identity_attested.attempt,
    ],
    ids=lambda attempt: attempt.__module__.rpartition(".")[2],
)
async def test_where_there_is_nothing_to_prove_nothing_is_proven(attempt: Attempt) -> None:
    with pytest.raises(CannotTry):
        await holds(attempt, Stage(edges=(), denied=()))
