"""What each kind of seal has of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.secrets.seals.file import FileSeal
from vestibule.secrets.seals.ports import Plan
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.secrets.seals.wrapping import decode

ROOT = bytes(range(32))
PLAN = Plan(shares=5, threshold=3)


async def test_a_wrong_share_is_known_by_itself() -> None:
    seal = ShamirSeal()
    wrapped, other = await seal.wrap(ROOT, PLAN), await seal.wrap(ROOT, PLAN)
    assert [seal.number(wrapped.document, share) for share in wrapped.shares] == [1, 2, 3, 4, 5]
    right = wrapped.shares[0]
    for wrong in (
        other.shares[0],
        bytes([right[0] ^ 1]) + right[1:],
        right[:-1] + b"\x02",
        right[:-1] + b"\x77",
    ):
        with pytest.raises(VestibuleError) as error:
            seal.number(wrapped.document, wrong)
        assert error.value.code.code == "VST5012"
        assert right.hex() not in str(error.value)
    for malformed in (b"", right[:-1], right + b"\x01", right[:-1] + b"\x00"):
        with pytest.raises(VestibuleError) as error:
            seal.number(wrapped.document, malformed)
        assert error.value.code.code == "VST5013"


async def test_the_same_share_again_is_not_another_one() -> None:
    seal = ShamirSeal()
    wrapped = await seal.wrap(ROOT, PLAN)
    with pytest.raises(VestibuleError) as error:
        await seal.unwrap(wrapped.document, [wrapped.shares[0]] * 3)
    assert error.value.code.code == "VST5012"


async def test_a_threshold_that_was_lowered_in_the_database_opens_nothing() -> None:
    seal = ShamirSeal()
    wrapped = await seal.wrap(ROOT, PLAN)
    changes: list[dict[str, object]] = [
        {"threshold": 2},
        {"threshold": 0},
        {"threshold": "3"},
        {"shares": 4},
        {"digests": []},
        {"salt": 1},
    ]
    for change in changes:
        with pytest.raises(VestibuleError) as error:
            await seal.unwrap({**wrapped.document, **change}, wrapped.shares[:2])
        assert error.value.code.code in ("VST5015", "VST5012")


@pytest.mark.parametrize(("shares", "threshold"), [(0, 0), (3, 1), (2, 3), (256, 2), (-1, -1)])
def test_some_plans_make_no_sense(shares: int, threshold: int) -> None:
    with pytest.raises(VestibuleError) as error:
        Plan(shares=shares, threshold=threshold)
    assert error.value.code.code == "VST5017"


async def test_a_key_file_that_is_gone_is_not_made_anew_to_open_with(tmp_path: Path) -> None:
    path = tmp_path / "seal.kek"
    wrapped = await FileSeal(path).wrap(ROOT, PLAN)
    assert path.stat().st_mode & 0o777 == 0o600
    key = path.read_bytes()
    path.unlink()
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5014"
    assert not path.exists()
    path.write_bytes(key[::-1])
    path.chmod(0o600)
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5015"
    path.chmod(0o644)
    with pytest.raises(VestibuleError) as error:
        await FileSeal(path).unwrap(wrapped.document)
    assert error.value.code.code == "VST5014"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"kind": 1}', b"[" * 100_000, b" " * 300_000 + b"{}"]
)
def test_a_malformed_document_is_refused(text: bytes) -> None:
    with pytest.raises(VestibuleError) as error:
        decode(text)
    assert error.value.code.code == "VST5015"
