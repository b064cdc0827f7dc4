"""The files of what was issued: found again by agent, identity and serial, and gone when nothing in them is valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.spiffe import SpiffeId
from vestibule.store.issued import RECORD, Issued, IssuedFiles

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEB, DB = (SpiffeId.parse(f"spiffe://example.org/{name}") for name in ("web", "db"))
AUTHORITY = "0102030405060708" + "00" * 12


@pytest.fixture
def files(tmp_path: Path) -> IssuedFiles:
    made = IssuedFiles(tmp_path / "issued")
    made.open()
    return made


def record(serial: int, spiffe_id: SpiffeId = WEB, ends: datetime = NOW + HOUR) -> Issued:
    return Issued.of(serial, spiffe_id, AUTHORITY, ends)


async def test_records_are_found_by_agent_identity_serial_and_authority(files: IssuedFiles) -> None:
    one, two, three = (77 << 64) + 1, (77 << 64) + 2, (78 << 64) + 1
    files.append([record(one), record(two, DB), record(three)], NOW)
    assert {each.serial for each in await files.by_mark(77, NOW)} == {one, two}
    assert {each.serial for each in await files.by_identity(WEB, NOW)} == {one, three}
    [found] = await files.by_serial(two, NOW)
    assert (found.not_after, found.issued_at, found.authority.hex()) == (NOW + HOUR, NOW, AUTHORITY[:16])
    assert len(await files.by_authority(AUTHORITY, NOW)) == 3
    assert await files.by_mark(79, NOW) == []


async def test_what_has_expired_is_not_found(files: IssuedFiles) -> None:
    files.append([record(1)], NOW)
    assert await files.by_serial(1, NOW + HOUR - timedelta(seconds=1))
    assert not await files.by_serial(1, NOW + HOUR)


async def test_a_pattern_across_two_fields_or_records_is_no_match(files: IssuedFiles) -> None:
    # The mark's bytes stand where the identity and the authority are, and across two records.
    mark = 0x0102030405060708
    files.append([record(n) for n in range(1, 50)], NOW)
    assert await files.by_mark(mark, NOW) == []


async def test_files_are_removed_when_nothing_in_them_is_valid(files: IssuedFiles, tmp_path: Path) -> None:
    files.append([record(1)], NOW)
    files.append([record(2, ends=NOW + 9 * HOUR)], NOW + 2 * HOUR)
    files.append([record(3, ends=NOW + 9 * HOUR)], NOW + 4 * HOUR)
    assert await files.prune(NOW + 4 * HOUR) == 1
    assert await files.by_serial(2, NOW + 4 * HOUR)
    assert await files.prune(NOW + 10 * HOUR) == 1  # the last one is being written to
    assert len(list((tmp_path / "issued").iterdir())) == 1


async def test_a_record_cut_short_by_a_crash_costs_only_itself(files: IssuedFiles, tmp_path: Path) -> None:
    files.append([record(1), record(2)], NOW)
    files.close()
    [path] = (tmp_path / "issued").iterdir()
    path.write_bytes(path.read_bytes()[: RECORD.size + 7])
    again = IssuedFiles(tmp_path / "issued")
    again.open()
    again.append([record(3)], NOW)
    assert await again.by_serial(1, NOW)
    assert not await again.by_serial(2, NOW)
    assert await again.by_serial(3, NOW)


async def test_a_hundred_thousand_certificates_of_one_agent_are_found(files: IssuedFiles) -> None:
    files.append([record((5 << 64) + n) for n in range(1, 100_001)], NOW)
    assert len(await files.by_mark(5, NOW)) == 100_000


def test_records_that_cannot_be_kept_are_an_error(tmp_path: Path) -> None:
    files = IssuedFiles(tmp_path / "issued")
    with pytest.raises(VestibuleError, match="VST8000"):
        files.append([record(1)], NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(VestibuleError, match="VST8000"):
        IssuedFiles(tmp_path / "file").open()


def test_the_files_are_private(files: IssuedFiles, tmp_path: Path) -> None:
    files.append([record(1)], NOW)
    [path] = (tmp_path / "issued").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
