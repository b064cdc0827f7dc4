"""``sys/``: ceremonies around the seal, and what can be read but not changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vestibule.audit import AuditEvent
from vestibule.doors.vault.operations import Answer, Caller, Operation, VaultRequest
from vestibule.doors.vault.sys import SysBackend
from vestibule.doors.vault.sys_seal import SealBackend
from vestibule.errors import VestibuleError
from vestibule.secrets.anchor import FileAnchor
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.sealing import Sealing, SealStatus
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.spiffe import SpiffeId
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

ANN = Caller(spiffe_id=SpiffeId.parse("spiffe://example.org/ann"))


class Heard:
    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Whatever it is."""


class Scene:
    def __init__(self, backend: SysBackend) -> None:
        self.backend = backend
        self.forgotten = 0
        self.let: set[tuple[str, str]] = set()

    def forget(self) -> None:
        self.forgotten += 1

    async def may(self, request: VaultRequest) -> bool:
        return (request.method, request.path) in self.let

    def operation(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Operation:
        request = VaultRequest(
            method=method, path=f"sys/{path}", caller=ANN, body=body or {}, query=query or {}, request_id="r"
        )
        found = self.backend.operation(request)
        assert found is not None, path
        return found

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        return await self.operation(method, path, **more).run()

    async def told(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = await self.ask(method, path, **more)
        assert answer.top is not None
        return dict(answer.top)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    store = await open_store(tmp_path / "server.db", clock)
    barrier = SealedBarrier(store.sealed_rows, store.changes, Heard())
    anchor = FileAnchor(tmp_path / "generation")
    sealing = Sealing(barrier, ShamirSeal(), audit=Heard(), anchor=anchor, leads=lambda: True)
    seal = SealBackend(sealing, clock, cluster="example.org", storage="sqlite", forget=lambda: made.forget())
    made = Scene(
        SysBackend(
            seal,
            may=lambda request: made.may(request),
            policies=lambda: {"payments": "its rules"},
            hashed=lambda text: f"hmac-sha256:{len(text)}",
        )
    )
    yield made
    await store.close()


async def test_from_nothing_to_sealed_and_open_again(scene: Scene) -> None:
    assert (await scene.ask("GET", "health")).status == 501
    assert (await scene.ask("GET", "health", query={"uninitcode": "299"})).status == 299
    for text in ("0200000", "2" * 5000, "199", "600", "-200", " 200"):
        assert (await scene.ask("GET", "health", query={"uninitcode": text})).status == 501
    made = await scene.told("POST", "init", body={"secret_shares": 3, "secret_threshold": 2})
    assert (len(made["keys"]), len(made["keys_base64"]), made["root_token"]) == (3, 3, "")
    assert (await scene.ask("GET", "health")).status == 200
    await scene.ask("POST", "seal")
    assert ((await scene.ask("GET", "health")).status, scene.forgotten) == (503, 1)
    first = await scene.told("POST", "unseal", body={"key": made["keys"][0]})
    assert (first["sealed"], first["progress"], first["t"], first["n"]) == (True, 1, 2, 3)
    second = await scene.told("POST", "unseal", body={"key": made["keys_base64"][2]})
    assert (second["sealed"], second["progress"], second["type"]) == (False, 0, "shamir")


async def test_a_wrong_share_is_refused_and_not_repeated(scene: Scene) -> None:
    made = await scene.told("POST", "init", body={"secret_shares": 3, "secret_threshold": 2})
    await scene.ask("POST", "seal")
    wrong = "ab" * (len(made["keys"][0]) // 2)
    for key in (wrong, "no share", "zz", "é" * 10, "a" * 5000):
        with pytest.raises(VestibuleError) as caught:
            await scene.ask("POST", "unseal", body={"key": key})
        assert key not in str(caught.value)
    assert (await scene.told("GET", "seal-status"))["progress"] == 0


async def test_new_shares_take_the_place_of_old_ones(scene: Scene) -> None:
    made = await scene.told("POST", "init", body={"secret_shares": 1, "secret_threshold": 1})
    begun = await scene.told("POST", "rekey/init", body={"secret_shares": 2, "secret_threshold": 2})
    assert (begun["started"], begun["required"]) == (True, 1)
    body = {"nonce": begun["nonce"], "key": made["keys"][0]}
    ended = await scene.told("POST", "rekey/update", body=body)
    assert (ended["complete"], len(ended["keys"])) == (True, 2)
    assert await scene.told("GET", "rekey/init") == {"started": False}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "init", {}),
        ("POST", "seal", {}),
        ("POST", "rotate", {}),
        ("POST", "unseal", {"reset": True}),
        ("POST", "unseal", {"key": "ab", "accept_rollback": True}),
        ("POST", "unseal", {}),
        ("POST", "rekey/init", {}),
        ("DELETE", "rekey/init", {}),
        ("POST", "rekey/update", {"nonce": "x", "key": "ab"}),
        ("GET", "key-status", {}),
        ("GET", "policy", {}),
        ("LIST", "policies/acl", {}),
        ("GET", "policies/acl/payments", {}),
        ("GET", "audit", {}),
        ("POST", "audit-hash/file", {"input": "x"}),
    ],
)
async def test_these_are_for_administrators(
    scene: Scene, method: str, path: str, body: dict[str, Any]
) -> None:
    operation = scene.operation(method, path, body=body)
    assert (operation.operators, operation.open, operation.recorded) == (True, False, True)


@pytest.mark.parametrize("path", ["health", "seal-status", "init"])
async def test_probes_are_for_everybody_and_not_recorded(scene: Scene, path: str) -> None:
    operation = scene.operation("GET", path)
    assert (operation.open, operation.recorded, operation.changes) == (True, False, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "mounts/other"),
        ("DELETE", "mounts/secret"),
        ("POST", "mounts/secret/tune"),
        ("POST", "auth/github"),
        ("POST", "policy/mine"),
        ("DELETE", "policies/acl/payments"),
        ("POST", "audit/other"),
    ],
)
async def test_what_is_fixed_is_not_changed(scene: Scene, method: str, path: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        scene.operation(method, path)
    assert caught.value.code.code == "VST5208"


async def test_what_is_mounted_is_told_at_the_top_and_in_data(scene: Scene) -> None:
    told = await scene.told("GET", "mounts")
    assert told["secret/"]["type"] == told["data"]["secret/"]["type"] == "kv"
    assert told["secret/"]["options"] == {"version": "2"}
    one = await scene.ask("GET", "internal/ui/mounts/secret/some/path")
    assert one.data is not None
    assert (one.data["path"], one.data["type"]) == ("secret/", "kv")


async def test_capabilities_are_what_the_rules_let_through(scene: Scene) -> None:
    scene.let = {("GET", "secret/data/a"), ("POST", "secret/data/a")}
    paths = ["secret/data/a", "secret/data/b", "../x"]
    told = await scene.told("POST", "capabilities-self", body={"paths": paths})
    assert [told["data"][each] for each in paths] == [["read", "create", "update"], ["deny"], ["deny"]]


async def test_policies_are_the_intents(scene: Scene) -> None:
    assert (await scene.told("GET", "policy"))["policies"] == ["payments"]
    assert (await scene.told("GET", "policy/payments"))["rules"] == "its rules"
    assert (await scene.told("GET", "policies/acl/payments"))["policy"] == "its rules"


async def test_why_it_stays_sealed_is_told_by_a_code_and_names_nothing_of_the_server(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status(_self: Sealing) -> SealStatus:
        problem = "VST5014 /etc/vestibule/seal.kek is not there"
        return SealStatus(kind="file", initialised=True, sealed=True, automatic=True, problem=problem)

    monkeypatch.setattr(Sealing, "status", status)
    assert (await scene.told("GET", "seal-status"))["warnings"] == ["VST5014"]
