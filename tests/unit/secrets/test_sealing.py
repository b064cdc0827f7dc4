"""The ceremonies around the root key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.unit.secrets.conftest import NOW, Recording
from tests.unit.secrets.test_barrier import put, put_back, row_of

from vestibule.audit import AuditLog
from vestibule.errors import VestibuleError
from vestibule.secrets.anchor import Anchors, AuditAnchor, FileAnchor
from vestibule.secrets.barrier import SPACE, SealedBarrier
from vestibule.secrets.sealing import Sealing
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.ports import Plan, Seal
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store import Store
from vestibule.testing import FakeClock

PLAN = Plan(shares=5, threshold=3)
WHO = "local:uid=1000"


class Lab:
    """One server's secret manager, on a store that others may have, too."""

    def __init__(self, store: Store, audit: Recording, seal: Seal, anchor: Path, *former: Seal) -> None:
        self.audit = audit
        self.barrier = SealedBarrier(store.sealed_rows, store.changes, audit)
        self.sealing = Sealing(
            self.barrier,
            seal,
            audit=audit,
            anchor=FileAnchor(anchor),
            leads=lambda: True,
            former=former,
        )

    async def unsealed(self, shares: tuple[bytes, ...]) -> None:
        for share in shares:
            await self.sealing.unseal(share, actor=WHO)
        assert not self.barrier.is_sealed


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return tmp_path / "generation"


@pytest.fixture
def lab(store: Store, audit: Recording, anchor: Path) -> Lab:
    return Lab(store, audit, ShamirSeal(), anchor)


@pytest.fixture
def file_lab(store: Store, audit: Recording, anchor: Path, tmp_path: Path) -> Lab:
    return Lab(store, audit, FileSeal(tmp_path / "seal.kek"), anchor)


@asynccontextmanager
async def running(sealing: Sealing) -> AsyncIterator[None]:
    task = asyncio.create_task(sealing.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def code(error: pytest.ExceptionInfo[VestibuleError]) -> str:
    return error.value.code.code


async def test_a_new_one_is_initialised_once(lab: Lab) -> None:
    before = await lab.sealing.status()
    assert (before.initialised, before.sealed, before.plan) == (False, True, None)
    shares = await lab.sealing.init(PLAN, actor=WHO)
    assert len(shares) == 5
    after = await lab.sealing.status()
    assert (after.initialised, after.sealed, after.plan, after.key_id) == (True, False, PLAN, 1)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.init(PLAN, actor=WHO)
    assert code(error) == "VST5011"
    assert lab.audit.actions() == ["secrets.init"]
    assert not any(share.hex() in repr(lab.audit.events) for share in shares)


async def test_it_is_unsealed_share_by_share(lab: Lab) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    await lab.sealing.seal(actor=WHO)
    assert (await lab.sealing.status()).sealed
    first = await lab.sealing.unseal(shares[4], actor=WHO)
    again = await lab.sealing.unseal(shares[4], actor=WHO)
    assert first.progress == again.progress == 1
    assert first.nonce == again.nonce != ""
    assert (await lab.sealing.unseal(shares[0], actor=WHO)).progress == 2
    done = await lab.sealing.unseal(shares[2], actor=WHO)
    assert (done.sealed, done.progress, done.nonce) == (False, 0, "")
    assert await lab.barrier.get("kv", "a") is not None
    # One of them was given twice.
    given = ["secrets.unseal-share"] * 3
    assert lab.audit.actions() == ["secrets.init", "secrets.seal", *given, "secrets.unseal"]
    assert not (await lab.sealing.unseal(shares[2], actor=WHO)).sealed


async def test_a_wrong_share_changes_nothing(lab: Lab) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.sealing.seal(actor=WHO)
    await lab.sealing.unseal(shares[0], actor=WHO)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.unseal(bytes(32) + b"\x02", actor=WHO)
    assert code(error) == "VST5012"
    assert (await lab.sealing.status()).progress == 1
    lab.sealing.reset()
    assert (await lab.sealing.status()).progress == 0
    await lab.unsealed(shares[:3])


async def test_what_is_tried_in_vain_is_on_record(lab: Lab) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    wrong = bytes(32) + b"\x01"
    status = await lab.sealing.rekey(PLAN, actor=WHO)
    with pytest.raises(VestibuleError):
        await lab.sealing.rekey_share(status.nonce, wrong, actor=WHO)
    await lab.sealing.seal(actor=WHO)
    with pytest.raises(VestibuleError):
        await lab.sealing.unseal(wrong, actor=WHO)
    await lab.sealing.unseal(shares[0], actor=WHO)
    await lab.sealing.forget_shares(actor=WHO)
    told = [(each.action, each.outcome) for each in lab.audit.events[2:]]
    assert told == [
        ("secrets.rekey-share", "VST5012"),
        ("secrets.seal", "ok"),
        ("secrets.unseal", "VST5012"),
        ("secrets.unseal-share", "ok"),
        ("secrets.unseal-reset", "ok"),
    ]


async def test_nothing_can_be_unsealed_before_there_is_something(lab: Lab) -> None:
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.unseal(bytes(32) + b"\x01", actor=WHO)
    assert code(error) == "VST5010"


async def test_without_a_record_it_stays_sealed(lab: Lab) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.sealing.seal(actor=WHO)
    lab.audit.broken = True
    with pytest.raises(VestibuleError) as error:
        await lab.unsealed(shares[:3])
    assert code(error) == "VST8100"
    assert lab.barrier.is_sealed


async def test_a_key_file_needs_nobody(file_lab: Lab) -> None:
    assert await file_lab.sealing.open_by_itself()
    await file_lab.barrier.apply([put("a")])
    file_lab.barrier.lock()
    assert await file_lab.sealing.open_by_itself()
    assert await file_lab.barrier.get("kv", "a") is not None
    await file_lab.sealing.seal(actor=WHO)
    assert not await file_lab.sealing.open_by_itself()
    assert not (await file_lab.sealing.unseal(actor=WHO)).sealed


async def test_it_unseals_by_itself_as_soon_as_it_can(store: Store, file_lab: Lab, tmp_path: Path) -> None:
    await file_lab.sealing.open_by_itself()
    file_lab.barrier.lock()
    key = (tmp_path / "seal.kek").rename(tmp_path / "away")
    async with running(file_lab.sealing), asyncio.timeout(60):
        while not (await file_lab.sealing.status()).problem:
            await asyncio.sleep(0.01)
        assert "VST5014" in (await file_lab.sealing.status()).problem
        key.rename(tmp_path / "seal.kek")
        while "secrets.unseal" not in file_lab.audit.actions():
            await asyncio.sleep(0.01)
        assert not (await file_lab.sealing.status()).sealed


async def test_an_older_database_stays_sealed_until_that_is_accepted(
    lab: Lab, store: Store, audit: Recording, path: Path, anchor: Path
) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a", b"old")])
    old = row_of(path, "a"), row_of(path, "head", SPACE)
    async with running(lab.sealing), asyncio.timeout(60):
        await lab.barrier.apply([put("a", b"new")])
        while anchor.read_text() != f"{lab.barrier.generation}\n":
            await asyncio.sleep(0.01)
    put_back(path, "a", old[0])
    put_back(path, "head", old[1], SPACE)
    restarted = Lab(store, audit, ShamirSeal(), anchor)
    with pytest.raises(VestibuleError) as error:
        await restarted.unsealed(shares[:3])
    assert code(error) == "VST5003"
    assert restarted.barrier.is_sealed
    for share in shares[:3]:
        await restarted.sealing.unseal(share, actor=WHO, accept_rollback=True)
    assert not (await restarted.sealing.status()).sealed
    assert audit.actions()[-2:] == ["secrets.accept-rollback", "secrets.unseal"]
    assert audit.events[-2].details == {"generation": 2, "before": 3}
    await Lab(store, audit, ShamirSeal(), anchor).unsealed(shares[:3])


async def test_the_audit_log_anchors_too(lab: Lab, store: Store, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", FakeClock(NOW))
    await log.open()
    anchors = Anchors([FileAnchor(tmp_path / "gone"), AuditAnchor(tmp_path / "audit.jsonl")])
    assert await anchors.newest() == 0
    sealing = Sealing(lab.barrier, ShamirSeal(), audit=log, anchor=anchors, leads=lambda: True)
    shares = await sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    await sealing.seal(actor=WHO)
    (tmp_path / "gone").unlink()
    assert await anchors.newest() == 2
    for share in shares[:3]:
        await sealing.unseal(share, actor=WHO)
    await log.close()


@pytest.mark.parametrize("text", ["", "x", "-7", "9" * 200, "\x00"])
async def test_an_anchor_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "anchor"
    path.touch(mode=0o600)
    path.write_text(text)
    assert await FileAnchor(path).newest() == 0


async def test_all_rows_are_looked_at_after_unsealing(lab: Lab, path: Path) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    old = row_of(path, "a")
    await lab.barrier.apply([put("a"), put("b")])
    put_back(path, "a", old)
    async with running(lab.sealing), asyncio.timeout(60):
        while "secrets.tampering" not in lab.audit.actions():
            await asyncio.sleep(0.01)
        while not (await lab.sealing.status()).damaged:
            await asyncio.sleep(0.01)
    assert (await lab.sealing.status()).damaged == ("kv",)


# --------------------------------------------------------------------------------------------------- keys


async def test_a_rotated_data_key_is_everywhere_after_a_while(lab: Lab) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put(f"{number}") for number in range(100)])
    async with running(lab.sealing), asyncio.timeout(60):
        assert await lab.sealing.rotate_data_key(actor=WHO) == 2
        while (await lab.sealing.status()).reencrypting:
            await asyncio.sleep(0.01)
    assert await lab.barrier.verify(values=True) == ([], [])
    assert "secrets.rotate-data-key" in lab.audit.actions()


async def test_a_key_that_has_sealed_much_is_rotated_without_anybody(
    store: Store, audit: Recording, anchor: Path
) -> None:
    barrier = SealedBarrier(store.sealed_rows, store.changes, audit, max_sealed=40)
    sealing = Sealing(barrier, ShamirSeal(), audit=audit, anchor=FileAnchor(anchor), leads=lambda: True)
    await sealing.init(PLAN, actor=WHO)
    while not barrier.wants_rotation:
        await barrier.apply([put("a")])
    async with running(sealing), asyncio.timeout(60):
        while barrier.key_id == 1:
            await asyncio.sleep(0.01)
    assert await barrier.get("kv", "a") is not None


async def test_the_root_key_of_a_key_file_is_rotated_online(
    file_lab: Lab, store: Store, audit: Recording
) -> None:
    await file_lab.sealing.open_by_itself()
    await file_lab.barrier.apply([put("a")])
    before = file_lab.barrier.root_key
    await file_lab.sealing.rotate_root_key(actor=WHO)
    assert file_lab.barrier.root_key != before
    assert await file_lab.barrier.get("kv", "a") is not None
    file_lab.barrier.lock()
    with pytest.raises(VestibuleError) as error:
        await file_lab.barrier.unlock(before)
    assert code(error) == "VST5004"
    assert await file_lab.sealing.open_by_itself()


async def test_the_root_key_of_shares_needs_them(lab: Lab) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.rotate_root_key(actor=WHO)
    assert code(error) == "VST5018"


# -------------------------------------------------------------------------------------------------- rekey


@pytest.mark.parametrize("rotate_root", [False, True])
@pytest.mark.parametrize("verification", [False, True])
async def test_new_shares_take_the_place_of_the_old(lab: Lab, verification: bool, rotate_root: bool) -> None:
    old = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    root = lab.barrier.root_key
    status = await lab.sealing.rekey(
        Plan(shares=3, threshold=2), actor=WHO, verification=verification, rotate_root=rotate_root
    )
    assert (status.required, status.progress) == (3, 0)
    for share in old[:3]:
        status = await lab.sealing.rekey_share(status.nonce, share, actor="local:uid=1000")
    new = status.shares
    assert len(new) == 3
    assert status.complete is not verification
    if verification:
        with pytest.raises(VestibuleError) as error:
            await lab.sealing.rekey_verify(status.nonce, old[0], actor="local:uid=1000")
        assert code(error) == "VST5012"
        for share in new[1:]:
            status = await lab.sealing.rekey_verify(status.nonce, share, actor="local:uid=1000")
        assert status.complete
    assert (lab.barrier.root_key != root) is rotate_root
    assert lab.sealing.rekeying is None
    await lab.sealing.seal(actor=WHO)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.unseal(old[0], actor=WHO)
    assert code(error) == "VST5012"
    await lab.unsealed(new[:2])
    assert await lab.barrier.get("kv", "a") is not None


async def test_a_rekey_without_verification_of_its_shares_changes_nothing(lab: Lab) -> None:
    old = await lab.sealing.init(PLAN, actor=WHO)
    status = await lab.sealing.rekey(PLAN, actor=WHO, verification=True)
    for share in old[:3]:
        status = await lab.sealing.rekey_share(status.nonce, share, actor="local:uid=1000")
    await lab.sealing.rekey_verify(status.nonce, status.shares[0], actor="local:uid=1000")
    assert lab.sealing.rekeying is not None
    assert lab.sealing.rekeying.shares == ()
    await lab.sealing.cancel_rekey(actor=WHO)
    await lab.sealing.seal(actor=WHO)
    await lab.unsealed(old[2:])


async def test_a_rekey_is_one_at_a_time_and_has_its_nonce(lab: Lab) -> None:
    old = await lab.sealing.init(PLAN, actor=WHO)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.rekey_share("", old[0], actor="local:uid=1000")
    assert code(error) == "VST5016"
    status = await lab.sealing.rekey(PLAN, actor=WHO)
    for wrong in (
        lab.sealing.rekey(PLAN, actor=WHO),
        lab.sealing.rekey_share("other", old[0], actor="local:uid=1000"),
        lab.sealing.rekey_verify(status.nonce, old[0], actor="local:uid=1000"),
    ):
        with pytest.raises(VestibuleError) as error:
            await wrong
        assert code(error) == "VST5016"
    await lab.sealing.seal(actor=WHO)
    assert lab.sealing.rekeying is None


async def test_a_key_file_gives_way_to_shares(
    file_lab: Lab, store: Store, audit: Recording, anchor: Path, tmp_path: Path
) -> None:
    await file_lab.sealing.open_by_itself()
    await file_lab.barrier.apply([put("a")])
    lab = Lab(store, audit, ShamirSeal(), anchor, FileSeal(tmp_path / "seal.kek"))
    assert await lab.sealing.open_by_itself()
    status = await lab.sealing.rekey(PLAN, actor=WHO, rotate_root=True)
    assert status.complete
    assert (await lab.sealing.status()).plan == PLAN
    (tmp_path / "seal.kek").unlink()
    after = Lab(store, audit, ShamirSeal(), anchor)
    await after.unsealed(status.shares[:3])
    assert await after.barrier.get("kv", "a") is not None


async def test_another_kind_of_seal_than_configured_is_named(
    file_lab: Lab, store: Store, audit: Recording, anchor: Path
) -> None:
    await file_lab.sealing.open_by_itself()
    lab = Lab(store, audit, ShamirSeal(), anchor)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.status()
    assert code(error) == "VST5015"
    assert "'file'" in str(error.value)
