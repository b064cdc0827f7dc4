"""Backups: what is in the file, who can open it, and what happens to one that was changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.secrets.conftest import NOW, Recording
from tests.unit.secrets.test_barrier import put, put_back, row_of, tamper
from tests.unit.secrets.test_sealing import PLAN, WHO, Lab, code

from vestibule.errors import VestibuleError
from vestibule.keys.secrets import Secret
from vestibule.records import SealedRow
from vestibule.secrets.backups import (
    BackupReader,
    Passphrase,
    Recipient,
    RecipientKey,
    RootKey,
    Unwrapping,
    Wrapping,
    encrypted,
)
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.store import Store
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock

PRIVATE = X25519PrivateKey.generate()
PASSPHRASE = Passphrase(Secret("correct horse battery staple"))
WAYS: dict[str, tuple[Wrapping, Unwrapping]] = {
    "passphrase": (PASSPHRASE, PASSPHRASE),
    "recipient": (Recipient(PRIVATE.public_key().public_bytes_raw()), RecipientKey(PRIVATE)),
    "root key": (RootKey(bytes(32), b"seal"), RootKey(bytes(32))),
}
ROWS = [
    SealedRow(
        space="kv",
        key=f"ü/{number}",
        revision=number + 1,
        key_id=number % 3,
        body=bytes([number % 256]) * number,
    )
    for number in range(900)
]
ROOT_KEY = RootKey(bytes(32))


async def each(items: list[SealedRow]) -> AsyncIterator[SealedRow]:
    for item in items:
        yield item


async def pieces_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def file_of(rows: list[SealedRow], wrapping: Wrapping = ROOT_KEY) -> bytes:
    pieces = encrypted(each(rows), wrapping, created_at="2026-05-01", generation=7)
    return b"".join([piece async for piece in pieces])


async def read(data: bytes, unwrapping: Unwrapping = ROOT_KEY, size: int = 1000) -> list[SealedRow]:
    reader = BackupReader(pieces_of(data, size))
    header = await reader.header()
    return [row async for row in reader.rows(header, unwrapping)]


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_backed_up_is_read_again(way: str) -> None:
    wrapping, unwrapping = WAYS[way]
    data = await file_of(ROWS, wrapping)
    assert await read(data, unwrapping) == ROWS
    assert b"\xc3\xbc/17" not in data
    header = await BackupReader(pieces_of(data)).header()
    assert (header.created_at, header.generation) == ("2026-05-01", 7)


@pytest.mark.parametrize("way", WAYS)
async def test_only_the_right_key_opens_it(way: str) -> None:
    data = await file_of(ROWS[:3], WAYS[way][0])
    wrong: list[Unwrapping] = [
        Passphrase(Secret("wrong")),
        RecipientKey(X25519PrivateKey.generate()),
        RootKey(bytes([1]) * 32),
        *(unwrapping for name, (_, unwrapping) in WAYS.items() if name != way),
    ]
    for unwrapping in wrong:
        with pytest.raises(VestibuleError) as error:
            await read(data, unwrapping)
        assert code(error) == "VST5006"
        assert "wrong" not in str(error.value)


async def test_an_empty_one_is_one() -> None:
    assert await read(await file_of([]), size=1) == []


async def test_whatever_is_cut_off_or_added_is_noticed() -> None:
    data = await file_of(ROWS)
    for changed in (
        data[:-1],
        data[: len(data) // 2],
        data[:100],
        data[:8],
        b"",
        data + b"x",
        data + data[-300:],
    ):
        with pytest.raises(VestibuleError) as error:
            await read(changed)
        assert code(error) == "VST5006"


async def test_chunks_in_another_order_are_noticed() -> None:
    data = await file_of(ROWS)
    start = 12 + int.from_bytes(data[8:12], "big")
    first = start + 4 + int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(VestibuleError) as error:
        await read(data[:start] + data[first:])
    assert code(error) == "VST5006"
    with pytest.raises(VestibuleError) as error:
        await read(data[:start] + data[first:] + data[start:first])
    assert code(error) == "VST5006"


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_every_change_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(await file_of(ROWS[:5]))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VestibuleError) as error:
        await read(bytes(whole))
    assert code(error) == "VST5006"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
async def test_anything_else_is_no_backup(noise: bytes, magic: bool) -> None:
    with pytest.raises(VestibuleError) as error:
        await read((b"VSTBACK1" if magic else b"") + noise)
    assert code(error) == "VST5006"


# ---------------------------------------------------------------------------------------- with a database


async def backup_of(lab: Lab, wrapping: Wrapping | None = None) -> tuple[bytes, list[str]]:
    findings: list[str] = []
    pieces = lab.sealing.backup(wrapping, actor=WHO, now=NOW, findings=findings)
    return b"".join([piece async for piece in pieces]), findings


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path / "elsewhere" / "vestibule.db", FakeClock(NOW))
    yield store
    await store.close()


@pytest.fixture
def lab(store: Store, audit: Recording, tmp_path: Path) -> Lab:
    return Lab(store, audit, ShamirSeal(), tmp_path / "anchor")


@pytest.fixture
def there(elsewhere: Store, audit: Recording, tmp_path: Path) -> Lab:
    return Lab(elsewhere, audit, ShamirSeal(), tmp_path / "another-anchor")


@pytest.mark.parametrize("way", ["passphrase", "recipient", "seal"])
async def test_a_backup_is_restored_somewhere_else(lab: Lab, there: Lab, way: str) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a", b"canary-value"), put("team/b")])
    wrapping, unwrapping = WAYS.get(way, (None, None))
    data, findings = await backup_of(lab, wrapping)
    assert findings == []
    assert b"canary-value" not in data
    assert b"team/b" not in data
    await there.sealing.restore(pieces_of(data), unwrapping, actor=WHO, shares=shares[1:4])
    assert there.barrier.is_sealed
    await there.unsealed(shares[:3])
    item = await there.barrier.get("kv", "a")
    assert item is not None
    assert item.value == b"canary-value"
    assert await there.barrier.verify(values=True) == ([], [])
    assert there.barrier.key_id == 2
    done = [each for each in lab.audit.actions() if each != "secrets.unseal-share"]
    assert done[-3:] == ["secrets.restore-begin", "secrets.restore", "secrets.unseal"]


async def test_what_is_there_is_overwritten_only_if_that_is_meant(lab: Lab) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a", b"old")])
    data, _ = await backup_of(lab, PASSPHRASE)
    await lab.barrier.apply([put("a", b"new")])
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.restore(pieces_of(data), PASSPHRASE, actor=WHO)
    assert code(error) == "VST5007"
    assert not lab.barrier.is_sealed
    await lab.sealing.restore(pieces_of(data), PASSPHRASE, actor=WHO, overwrite=True)
    await lab.unsealed(shares[:3])  # it is not taken for a rollback: it was meant
    item = await lab.barrier.get("kv", "a")
    assert item is not None
    assert item.value == b"old"


@pytest.mark.parametrize("cut", [lambda data: data[:-5], lambda data: data[:-5] + bytes(5)])
async def test_a_damaged_backup_changes_nothing(lab: Lab, cut: Callable[[bytes], bytes]) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a")])
    data, _ = await backup_of(lab, PASSPHRASE)
    await lab.barrier.apply([put("b")])
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.restore(pieces_of(cut(data)), PASSPHRASE, actor=WHO, overwrite=True)
    assert code(error) == "VST5006"
    assert await lab.barrier.keys("kv") == ["a", "b"]


async def test_a_backup_of_something_else_changes_nothing(lab: Lab) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    with pytest.raises(VestibuleError) as error:
        await lab.sealing.restore(
            pieces_of(await file_of(ROWS[:3], PASSPHRASE)), PASSPHRASE, actor=WHO, overwrite=True
        )
    assert code(error) == "VST5006"
    assert (await lab.sealing.status()).initialised


async def test_a_backup_tells_what_is_wrong_with_the_database(lab: Lab, path: Path) -> None:
    await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a"), put("b")])
    tamper(path, "DELETE FROM sealed_rows WHERE key = 'a'")
    _, findings = await backup_of(lab)
    assert findings == ["kv"]


async def test_what_was_written_in_the_time_that_is_undone_does_not_come_back(lab: Lab, path: Path) -> None:
    shares = await lab.sealing.init(PLAN, actor=WHO)
    await lab.barrier.apply([put("a", b"one")])
    data, _ = await backup_of(lab, PASSPHRASE)
    await lab.barrier.apply([put("a", b"two")])
    undone = row_of(path, "a")
    await lab.sealing.restore(pieces_of(data), PASSPHRASE, actor=WHO, overwrite=True)
    await lab.unsealed(shares[:3])
    while await lab.barrier.reencrypt() is not None:
        pass
    await lab.barrier.apply([put("a", b"three")])
    put_back(path, "a", undone)
    with pytest.raises(VestibuleError) as error:
        await lab.barrier.get("kv", "a")
    assert code(error) == "VST5002"


async def test_a_key_file_opens_a_backup_by_itself(
    store: Store, elsewhere: Store, audit: Recording, tmp_path: Path
) -> None:
    seal = FileSeal(tmp_path / "seal.kek")
    first = Lab(store, audit, seal, tmp_path / "one")
    second = Lab(elsewhere, audit, seal, tmp_path / "two")
    await first.sealing.open_by_itself()
    await first.barrier.apply([put("a")])
    data, _ = await backup_of(first)
    await second.sealing.restore(pieces_of(data), None, actor=WHO)
    assert await second.sealing.open_by_itself()
    assert await second.barrier.keys("kv") == ["a"]
