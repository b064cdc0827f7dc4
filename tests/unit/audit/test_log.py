"""The audit log keeps all or nothing, survives crashes, and shows what was done to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.audit import AuditEvent, AuditLog, verify
from vestibule.audit.chain import Link, decode, encode, follows
from vestibule.errors import VestibuleError
from vestibule.testing import FakeClock

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.log"


async def opened(path: Path) -> AuditLog:
    log = AuditLog(path, FakeClock(NOW))
    await log.open()
    return log


@pytest.fixture
async def log(path: Path) -> AsyncIterator[AuditLog]:
    log = await opened(path)
    yield log
    await log.close()


def event(subject: str = "spiffe://example.org/web", **details: str | int) -> AuditEvent:
    return AuditEvent(
        actor="spiffe://example.org/agent", action="svid.issue", subject=subject, details=details
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = os.fdatasync

    def counted(file: int) -> None:
        calls.append(file)
        real(file)

    monkeypatch.setattr(os, "fdatasync", counted)
    return calls


# ------------------------------------------------------------------------------------- what is kept


async def test_a_record_says_who_did_what_to_whom_and_when(log: AuditLog, path: Path) -> None:
    await log.record([event("a", serial="12", ttl=3600)])
    (record,) = records(path)
    assert record.pop("hash")
    assert record == {
        "seq": 1,
        "time": "2026-05-01T00:00:00.000000+00:00",
        "actor": "spiffe://example.org/agent",
        "action": "svid.issue",
        "subject": "a",
        "outcome": "ok",
        "details": {"serial": "12", "ttl": 3600},
        "prev": "0" * 64,
    }


async def test_a_stranger_can_check_the_chain_with_json_and_sha256(log: AuditLog, path: Path) -> None:
    await log.record([event(str(number)) for number in range(3)])
    before = "0" * 64
    for record in records(path):
        claimed = record.pop("hash")
        body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        assert record["prev"] == before
        assert hashlib.sha256(body).hexdigest() == claimed
        before = claimed


async def test_a_thousand_events_cost_one_flush(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = flushes(monkeypatch)
    await log.record([event(str(number)) for number in range(1000)])
    assert len(calls) == 1
    assert verify(path).records == 1000


async def test_calls_that_wait_together_share_a_flush_and_stay_in_order(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = flushes(monkeypatch)
    await asyncio.gather(*(log.record([event(f"{number}a"), event(f"{number}b")]) for number in range(100)))
    assert len(calls) <= 3
    subjects = [record["subject"] for record in records(path)]
    assert subjects == [f"{number}{letter}" for number in range(100) for letter in "ab"]


async def test_no_events_are_no_record(log: AuditLog, path: Path) -> None:
    await log.record([])
    assert path.read_bytes() == b""


async def test_the_file_is_private_and_has_one_writer(log: AuditLog, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(VestibuleError, match="VST8102"):
        await opened(path)


async def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    for number in range(3):
        log = await opened(path)
        assert not log.found_torn
        await log.record([event(str(number))])
        await log.close()
    assert verify(path).ok
    assert verify(path).records == 3


# --------------------------------------------------------------------------- when it can not be kept


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel writes a part and then refuses, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_can_not_be_written_whole_is_not_written_at_all(log: AuditLog, path: Path) -> None:
    await log.record([event("kept")])
    before = path.read_bytes()
    with files_no_larger_than(len(before) + 500):
        with pytest.raises(VestibuleError, match="VST8100"):
            await log.record([event(str(number)) for number in range(10)])
        assert path.read_bytes() == before
    await log.record([event("later")])
    assert [record["subject"] for record in records(path)] == ["kept", "later"]
    assert verify(path).ok


async def test_all_who_share_a_failed_write_are_told(log: AuditLog, path: Path) -> None:
    with files_no_larger_than(100):
        results = await asyncio.gather(*(log.record([event()]) for _ in range(10)), return_exceptions=True)
    assert [type(result) for result in results] == [VestibuleError] * 10
    assert path.read_bytes() == b""


async def test_a_flush_that_fails_is_a_record_that_failed(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.record([event("kept")])
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", _input_output_error)
        for _ in range(2):
            with pytest.raises(VestibuleError, match="VST8100"):
                await log.record([event("lost")])
    await log.record([event("later")])
    assert [record["subject"] for record in records(path)] == ["kept", "later"]
    assert verify(path).ok


def _input_output_error(_: int) -> None:
    raise OSError(5, "Input/output error")


async def test_nothing_is_recorded_into_a_file_that_nobody_will_find(log: AuditLog, path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    with pytest.raises(VestibuleError, match="VST8100"):
        await log.record([event()])
    path.touch()
    with pytest.raises(VestibuleError, match="VST8100"):
        await log.record([event()])


async def test_a_log_that_is_not_open_records_nothing(path: Path) -> None:
    with pytest.raises(VestibuleError, match="VST8100"):
        await AuditLog(path, FakeClock(NOW)).record([event()])
    log = await opened(path)
    await log.close()
    with pytest.raises(VestibuleError, match="VST8100"):
        await log.record([event()])


async def test_a_place_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for place in (tmp_path / "file" / "audit.log", tmp_path, tmp_path / "link"):
        with pytest.raises(VestibuleError, match="VST8100"):
            await opened(place)


async def test_an_event_that_is_too_large_is_refused(log: AuditLog, path: Path) -> None:
    with pytest.raises(VestibuleError, match="VST8100"):
        await log.record([event("x" * (1024 * 1024))])
    await log.record([event("small")])
    assert verify(path).records == 1


async def test_an_event_that_is_too_large_fails_nobody_elses_record(log: AuditLog, path: Path) -> None:
    sizes = [1, 1024 * 1024, 1, 1]
    calls = [log.record([event("x" * size)]) for size in sizes]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), VestibuleError, type(None), type(None)]
    assert verify(path).records == 3


async def test_a_caller_that_gives_up_does_not_break_the_chain(log: AuditLog, path: Path) -> None:
    for round_ in range(10):
        calls = [asyncio.ensure_future(log.record([event(f"{round_}-{number}")])) for number in range(10)]
        for _ in range(round_):
            await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        kept = {record["subject"] for record in records(path)}
        finished = {f"{round_}-{number}" for number, result in enumerate(results) if result is None}
        assert finished <= kept
    assert verify(path).ok


# -------------------------------------------------------------------------------------- after crashes


async def crashed(path: Path, cut: int) -> bytes:
    """A log of three records whose last line lacks its last ``cut`` bytes."""
    log = await opened(path)
    await log.record([event(str(number)) for number in range(3)])
    await log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    return whole[:-cut].rpartition(b"\n")[2]


@pytest.mark.parametrize("cut", [2, 50, 200])
async def test_a_line_that_a_crash_left_unfinished_is_reported_and_the_chain_goes_on(
    path: Path, cut: int
) -> None:
    fragment = await crashed(path, cut)
    assert verify(path).unfinished
    log = await opened(path)
    assert log.found_torn
    await log.record([event("after")])
    await log.close()
    report = verify(path)
    assert (report.ok, report.records, report.torn, report.unfinished) == (True, 4, 1, False)
    assert fragment in path.read_bytes().splitlines(), "it stays where it was"
    seal = decode(path.read_bytes().splitlines()[3])
    assert seal is not None
    assert seal["action"] == "audit.torn-line"
    assert seal["details"] == {"bytes": len(fragment), "sha256": hashlib.sha256(fragment).hexdigest()}


async def test_a_record_that_lacks_only_the_end_of_its_line_counts(path: Path) -> None:
    await crashed(path, 1)
    log = await opened(path)
    assert not log.found_torn
    await log.record([event("after")])
    await log.close()
    assert verify(path).records == 4
    assert verify(path).torn == 0


@pytest.mark.parametrize("left", range(0, 300, 23))
async def test_a_crash_while_a_crash_is_recorded_is_survived(path: Path, left: int) -> None:
    await crashed(path, 50)
    size = path.stat().st_size
    await (await opened(path)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: min(size + left, len(whole))])
    await (await opened(path)).close()
    report = verify(path)
    assert (report.ok, report.records, report.torn) == (True, 3, 1)


@pytest.mark.parametrize("left", [0, 1, 100])
async def test_a_crash_in_the_very_first_line_is_survived(path: Path, left: int) -> None:
    log = await opened(path)
    await log.record([event()])
    await log.close()
    path.write_bytes(path.read_bytes()[:left])
    await (await opened(path)).close()
    assert verify(path).ok
    assert verify(path).torn == (1 if left else 0)


WRITE = """
import asyncio, sys
from pathlib import Path
from vestibule.audit import AuditEvent, AuditLog
from vestibule.clock import SystemClock

async def main():
    log = AuditLog(Path(sys.argv[1]), SystemClock())
    await log.open()
    number = 0
    while True:
        await log.record([AuditEvent(actor="a", action="b", subject=str(number + i)) for i in range(3)])
        number += 3
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_confirmed_survives_kill_9(path: Path) -> None:
    confirmed = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(5)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        confirmed += max(int(line) for line in lines if line.endswith("\n"))
        await (await opened(path)).close()
        report = verify(path)
        assert report.ok
        assert report.records >= confirmed


# --------------------------------------------------------------------------------- what was done to it


@pytest.fixture
async def sound(path: Path) -> Path:
    log = await opened(path)
    await log.record([event(str(number), serial=str(number)) for number in range(5)])
    await log.close()
    return path


def rewrite(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def forged(line: bytes, after: bytes | None, **changes: object) -> bytes:
    """A line with other content and a hash that fits."""
    record = json.loads(line) | changes
    link = Link(seq=record["seq"] - 1, hash=json.loads(after)["hash"] if after else "0" * 64)
    names = ("actor", "action", "subject", "outcome", "details")
    lines, _ = encode(
        [AuditEvent(**{name: record[name] for name in names})], link, datetime.fromisoformat(record["time"])
    )
    return lines[:-1]


def test_a_changed_record_is_found(sound: Path) -> None:
    lines = sound.read_bytes().splitlines()
    lines[2] = lines[2].replace(b'"outcome":"ok"', b'"outcome":"OK"')
    rewrite(sound, lines)
    report = verify(sound)
    assert (report.ok, report.line, report.records) == (False, 3, 2)


def test_a_changed_record_with_a_fitting_hash_is_found_by_the_next_one(sound: Path) -> None:
    lines = sound.read_bytes().splitlines()
    lines[2] = forged(lines[2], lines[1], subject="nothing to see")
    assert decode(lines[2]) is not None
    rewrite(sound, lines)
    report = verify(sound)
    assert (report.ok, report.line) == (False, 4)


@pytest.mark.parametrize(
    "order",
    [(1, 2, 3, 4), (0, 2, 3, 4), (0, 1, 1, 2, 3, 4), (0, 2, 1, 3, 4)],
    ids=["first", "second", "twice", "swap"],
)
def test_removed_repeated_and_swapped_records_are_found(sound: Path, order: tuple[int, ...]) -> None:
    lines = sound.read_bytes().splitlines()
    rewrite(sound, [lines[place] for place in order])
    assert not verify(sound).ok


@pytest.mark.parametrize("noise", [b"", b"{}", b"hello", b"null", b"[" * 10_000, b'{"seq":NaN}'])
def test_an_inserted_line_is_found(sound: Path, noise: bytes) -> None:
    lines = sound.read_bytes().splitlines()
    rewrite(sound, [*lines[:2], noise, *lines[2:]])
    assert (verify(sound).ok, verify(sound).line) == (False, 3)
    rewrite(sound, [*lines, noise])
    assert (verify(sound).ok, verify(sound).line) == (False, 6)


def test_other_spelling_of_the_same_record_is_found(sound: Path) -> None:
    lines = sound.read_bytes().splitlines()
    rewrite(sound, [lines[0], lines[1].replace(b":", b": ", 1), *lines[2:]])
    assert verify(sound).line == 2


def test_a_cut_end_shows_only_beside_a_hash_noted_elsewhere(sound: Path) -> None:
    noted = verify(sound).last_hash
    rewrite(sound, sound.read_bytes().splitlines()[:3])
    assert verify(sound).ok
    assert verify(sound).last_hash != noted


async def test_a_log_whose_end_is_foreign_is_not_continued(sound: Path) -> None:
    rewrite(sound, [*sound.read_bytes().splitlines(), b"hello", b"world"])
    before = sound.read_bytes()
    with pytest.raises(VestibuleError, match="VST8101"):
        await opened(sound)
    assert sound.read_bytes() == before


async def test_an_endless_line_is_not_continued(sound: Path) -> None:
    sound.write_bytes(b"x" * (5 * 1024 * 1024))
    with pytest.raises(VestibuleError, match="VST8101"):
        await opened(sound)


def test_a_log_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match="VST8100"):
        verify(tmp_path / "missing")


texts = st.text(max_size=20)
events = st.lists(
    st.builds(
        AuditEvent,
        actor=texts,
        action=texts,
        subject=texts,
        outcome=texts,
        details=st.dictionaries(
            texts, texts | st.integers() | st.booleans() | st.none() | st.lists(texts, max_size=2)
        ),
    ),
    max_size=4,
)


@given(events)
def test_any_text_is_one_line_that_reads_back(batch: list[AuditEvent]) -> None:
    data, end = encode(batch, Link(), NOW)
    lines = data.splitlines()
    assert data.count(b"\n") == len(lines) == len(batch) == end.seq
    link = Link()
    for line, written in zip(lines, batch, strict=True):
        record = decode(line)
        assert record is not None
        assert follows(record, link)
        assert record["subject"] == written.subject
        link = Link(seq=record["seq"], hash=record["hash"])
    assert link == end


@given(st.binary(max_size=100))
def test_any_bytes_are_no_record(line: bytes) -> None:
    assert decode(line) is None
