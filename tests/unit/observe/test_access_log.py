"""The access log keeps what it is given, in bounded space, and can be read back."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.observe import access_log
from vestibule.observe.access_log import AccessLine, AccessLog, Edge, read
from vestibule.observe.access_record import SCHEMA, AccessRecord, Direction, Layer, Verdict

RECORD = AccessRecord(
    time=datetime(2026, 11, 1, 12, tzinfo=UTC),
    layer=Layer.HTTP,
    direction=Direction.INBOUND,
    verdict=Verdict.ALLOWED,
    reporter_service="payments",
    reporter_spiffe_id="spiffe://example.org/ns/prod/sa/payments",
    reporter_instance="i-1",
    source_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
    path="/v1/charges",
    status=200,
    flags=("UH",),
    duration_ms=1.5,
)


def line(record: AccessRecord) -> str:
    document = {**asdict(record), "schema": SCHEMA, "time": record.time.isoformat()}
    return json.dumps(document, default=lambda value: value.value)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def _write(log: AccessLog, *records: AccessRecord) -> None:
    log.append(AccessLine(line(record), None) for record in records)
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_a_line_is_read_back_as_its_record() -> None:
    assert AccessRecord.from_json(line(RECORD)) == RECORD


def test_fields_of_a_newer_writer_are_left_out() -> None:
    newer = line(RECORD).replace('"path"', '"field_of_tomorrow": 1, "path"')
    assert AccessRecord.from_json(newer) == RECORD


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"schema":"vestibule.access/v9"}', "not json"])
def test_a_broken_line_is_an_error_with_a_code(line: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        AccessRecord.from_json(line)
    assert caught.value.code.code == "VST8200"


async def test_what_was_queued_is_written_even_when_stopped_at_once(tmp_path: Path) -> None:
    await _write(AccessLog(tmp_path / "access.jsonl"), RECORD, RECORD)
    assert list(read(tmp_path / "access.jsonl")) == [RECORD, RECORD]


async def test_files_rotate_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = AccessLog(path, file_bytes=2_500, files_kept=2)
    for number in range(40):
        await _write(log, replace(RECORD, status=number))
    assert {file.name for file in tmp_path.iterdir()} == {"access.jsonl", "access.jsonl.1", "access.jsonl.2"}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * 2_500
    kept = [record.status for record in read(path)]
    assert kept == list(range(kept[0] or 0, 40))


async def test_a_line_still_being_written_is_left_out_but_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_text(line(RECORD) + "\n" + line(RECORD)[:40])
    assert list(read(path)) == [RECORD]
    path.write_text(line(RECORD) + "\n" + line(RECORD)[:40] + "\n" + line(RECORD) + "\n")
    with pytest.raises(VestibuleError, match=r"access\.jsonl:2: VST8200"):
        list(read(path))


def test_what_is_no_log_has_a_code(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match=r"VST8200 .*Is a directory"):
        list(read(tmp_path))
    binary = tmp_path / "access.jsonl"
    binary.write_bytes(b"\xff\xfe\x00\n")
    (tmp_path / "access.jsonl.bak").write_text("no rotated one")
    with pytest.raises(VestibuleError, match=r"access\.jsonl:1: VST8200"):
        list(read(binary))


async def test_a_full_disk_drops_records_and_counts_them() -> None:
    log = AccessLog(Path("/dev/full"))
    await _write(log, RECORD)
    assert log.dropped == 1


async def test_records_wait_while_the_disk_is_full_and_no_line_is_ever_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "RETRY_SECONDS", 0.01)
    path = tmp_path / "access.jsonl"
    log = AccessLog(path)
    size = len(line(RECORD)) + 1
    task = asyncio.create_task(log.run())
    with disk_of(size * 5 // 2):
        log.append(AccessLine(line(replace(RECORD, status=number)), None) for number in range(100, 110))
        await until(lambda: log.problem is not None)
        assert log.problem is not None
        assert log.problem.code.code == "VST8201"
        assert [record.status for record in read(path)] == [100, 101]
        assert path.read_text().endswith("\n")
    await until(lambda: log.problem is None)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [record.status for record in read(path)] == list(range(100, 110))
    assert log.dropped == 0


async def test_the_half_line_of_a_killed_agent_spoils_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_text(line(RECORD) + "\n" + line(RECORD)[:40])
    await _write(AccessLog(path), RECORD)
    assert list(read(path)) == [RECORD, RECORD]


async def test_everything_that_waits_is_written_at_the_end(tmp_path: Path) -> None:
    await _write(AccessLog(tmp_path / "access.jsonl"), *[RECORD] * 5_000)
    assert sum(1 for _ in read(tmp_path / "access.jsonl")) == 5_000


async def test_edges_count_who_called_whom(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.jsonl")
    edge = Edge("spiffe://example.org/ns/prod/sa/orders", "payments", "allowed")
    log.append([AccessLine("{}", edge), AccessLine("{}", edge), AccessLine("{}", None)])
    assert log.edges == {edge: 2}


def test_long_lines_take_a_bounded_part_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "QUEUE_CHARACTERS", 10_000)
    log = AccessLog(tmp_path / "access.jsonl")
    log.append([AccessLine("x" * 4_000, None) for _ in range(5)])
    assert log.dropped == 3
    assert sum(map(len, log._take())) == 8_000
    log.append([AccessLine("x" * 4_000, None) for _ in range(2)])
    assert log.dropped == 3
    log.append([AccessLine("x" * (access_log._LONGEST_LINE + 1), None)])
    assert log.dropped == 4


def test_edges_that_somebody_makes_up_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "EDGES_KEPT", 3)
    log = AccessLog(tmp_path / "access.jsonl")
    log.append([AccessLine("x", Edge(f"spiffe://x/{number}", "web", "allowed")) for number in range(10)])
    assert len(log.edges) == 4
    assert log.edges[Edge("others", "others", "allowed")] == 7
    log.append([AccessLine("x", Edge("spiffe://x/0", "web", "allowed"))])
    assert log.edges[Edge("spiffe://x/0", "web", "allowed")] == 2
