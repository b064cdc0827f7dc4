"""A log in several files: the chain goes on, the disk is bounded, and what is missing shows."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vestibule.audit import AuditEvent, AuditLog, Link, RecordFilter, records, verify
from vestibule.audit.files import segments
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def write(
    path: Path, count: int, *, files: int = 0, clock: FakeClock | None = None, first: int = 0
) -> None:
    log = AuditLog(path, clock or FakeClock(NOW), max_bytes=1500, max_files=files)
    await log.open()
    for number in range(first, first + count):
        await log.record(
            [AuditEvent(actor="server", action="svid.issue", subject=f"spiffe://example.org/{number}")]
        )
        if clock is not None:
            clock.advance(60)
    await log.close()


async def test_a_full_file_makes_way_and_the_chain_goes_on(path: Path) -> None:
    await write(path, 30)
    former = segments(path)
    assert len(former) > 2
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in (*former, path))
    assert all(file.stat().st_size < 2500 for file in former)
    report = verify(path)
    assert (report.ok, report.records, report.first) == (True, 30, 1)
    await write(path, 5, first=30)
    assert verify(path).records == 35
    assert [record["seq"] for record in records(path)] == list(range(1, 36))


async def test_a_crash_between_two_files_loses_nothing(path: Path) -> None:
    await write(path, 10)
    path.rename(path.with_name(f"{path.name}.{verify(path).last_seq:012}"))
    path.with_name("audit.jsonl.new").write_bytes(b"")
    assert verify(path).records == 10
    await write(path, 1)
    assert (verify(path).ok, verify(path).records) == (True, 11)


async def test_the_disk_is_bounded_and_what_was_removed_is_on_record(path: Path) -> None:
    await write(path, 60, files=3)
    assert len(segments(path)) <= 3
    report = verify(path)
    assert report.ok, report.problem
    assert report.first > 1
    told = [record["details"] for record in records(path, RecordFilter(action="audit.*"))]
    assert told[-1]["last_seq"] == report.first - 1


@pytest.mark.parametrize("which", [0, 1, -1])
async def test_a_file_that_somebody_else_removed_is_missed(path: Path, which: int) -> None:
    await write(path, 30)
    segments(path)[which].unlink()
    report = verify(path)
    assert not report.ok
    assert report.file is not None


async def test_an_anchor_finds_an_end_that_was_cut_off_or_written_anew(path: Path, tmp_path: Path) -> None:
    await write(path, 20)
    report = verify(path)
    anchor = Link(seq=report.last_seq, hash=report.last_hash)
    await write(path, 20, first=20)
    assert verify(path, anchor).ok, "it is still in the log"
    lines = path.read_bytes().splitlines(keepends=True)
    assert verify(path, Link(seq=verify(path).last_seq, hash=verify(path).last_hash)).ok
    end = verify(path)
    path.write_bytes(b"".join(lines[:-1]))
    cut = verify(path, Link(seq=end.last_seq, hash=end.last_hash))
    assert verify(path).ok
    assert "cut off" in cut.problem
    other = tmp_path / "other.jsonl"
    await write(other, 40, first=100)
    assert "written anew" in verify(other, anchor).problem


async def test_records_are_found_by_what_is_asked(path: Path) -> None:
    clock = FakeClock(NOW)
    await write(path, 20, clock=clock)
    later = NOW + timedelta(minutes=10)
    assert len(list(records(path, RecordFilter(since=later)))) == 10
    assert len(list(records(path, RecordFilter(until=later)))) == 10
    assert len(list(records(path, RecordFilter(subject="*/1?")))) == 10
    assert list(records(path, RecordFilter(actor="nobody"))) == []
