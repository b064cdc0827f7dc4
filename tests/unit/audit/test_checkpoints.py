"""Signed checkpoints: what was changed, cut off or written anew shows, and single records can be proven."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vestibule.audit import AuditEvent, AuditLog, verify
from vestibule.audit import checkpoints as documents
from vestibule.audit.chain import Link, encode
from vestibule.audit.checkpointing import Checkpointer
from vestibule.audit.checkpoints import LEAVES, SUFFIX
from vestibule.audit.codes import CHECKPOINT_CONFLICT, NOT_PROVABLE, PROOF_INVALID
from vestibule.audit.notes import NoteSigner
from vestibule.audit.proofs import Proof, prove
from vestibule.audit.signed_verification import verify_signed
from vestibule.errors import VestibuleError
from vestibule.testing import FakeClock

SIGNER = NoteSigner("vestibule.audit/example.org/one", bytes(32))
KEY = SIGNER.verifier


class Lab:
    """A log with a checkpointer."""

    def __init__(self, path: Path, *, max_bytes: int = 2**20, max_files: int = 0) -> None:
        self.path = path
        self.clock = FakeClock()
        self.log = AuditLog(path, self.clock, max_bytes=max_bytes, max_files=max_files)
        self.checkpointer = Checkpointer(path, SIGNER, self.clock)

    async def open(self) -> Lab:
        await self.log.open()
        await self.checkpointer.open(self.log.end.seq)
        self.log.appended = self.checkpointer.take
        return self

    async def again(self) -> Lab:
        """As after a crash: nothing is signed any more, the log is opened anew."""
        await self.log.close()
        return await Lab(self.path).open()

    async def record(self, count: int) -> None:
        for number in range(count):
            event = AuditEvent(actor="web", action="secret.read", subject=f"secret/{number}")
            await self.log.record([event])

    @property
    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    def rewrite(self, lines: list[bytes]) -> None:
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))

    @property
    def problem(self) -> str:
        return verify_signed(self.path, KEY).problem


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = await Lab(tmp_path / "audit.jsonl").open()
    yield lab
    await lab.log.close()


async def test_a_checkpoint_covers_what_was_recorded(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    report = verify_signed(lab.path, KEY)
    assert (report.ok, report.checkpoints, report.covered) == (True, 1, 5)
    assert report.at == lab.clock.now()


async def test_without_news_there_is_no_new_checkpoint(lab: Lab) -> None:
    await lab.checkpointer.checkpoint()
    assert lab.checkpointer.latest is None
    await lab.record(1)
    await lab.checkpointer.checkpoint()
    await lab.checkpointer.checkpoint()
    assert len(documents.read(lab.path.with_name(f"audit.jsonl{SUFFIX}"))) == 1


async def test_after_a_restart_the_tree_grows_on(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    await lab.record(3)
    again = await lab.again()
    await again.record(2)
    await again.checkpointer.checkpoint()
    await again.log.close()
    report = verify_signed(lab.path, KEY)
    assert (report.problem, report.checkpoints, report.covered) == ("", 2, 10)


async def test_hashes_that_a_crash_cut_off_are_made_anew(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    await lab.record(5)
    leaves = lab.path.with_name(f"audit.jsonl{LEAVES}")
    with leaves.open("ab") as file:
        file.write(b"half a hash")
    again = await lab.again()
    await again.checkpointer.checkpoint()
    await again.log.close()
    assert leaves.stat().st_size == 10 * 32
    assert lab.problem == ""


async def test_an_edited_record_shows(lab: Lab) -> None:
    """Even where whoever edits it makes the whole chain anew from there on."""
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    events = [
        AuditEvent(actor="web", action="secret.read", subject=f"secret/{each}") for each in (0, 1, 7, 3, 4)
    ]
    lines, _ = encode(events, Link(), lab.clock.now())
    lab.path.write_bytes(lines)
    assert verify(lab.path).ok
    assert lab.problem == "record 3 is not the one that was signed"


async def test_removed_and_reordered_records_show(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    lines = lab.lines
    lab.rewrite([*lines[:2], *lines[3:]])
    assert not verify(lab.path).ok
    lab.rewrite([lines[0], lines[2], lines[1], *lines[3:]])
    assert not verify(lab.path).ok


async def test_an_end_that_was_cut_off_shows_and_no_server_goes_on_from_there(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    lab.rewrite(lab.lines[:4])
    assert verify(lab.path).ok
    assert lab.problem == "the log ends with record 4, but 5 were signed"
    with pytest.raises(VestibuleError) as refused:
        await lab.again()
    assert refused.value.code is CHECKPOINT_CONFLICT


async def test_changed_hashes_show_and_no_server_goes_on_from_there(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    leaves = lab.path.with_name(f"audit.jsonl{LEAVES}")
    leaves.write_bytes(bytes(32) + leaves.read_bytes()[32:])
    assert lab.problem == "record 1 is not the one that was signed"
    with pytest.raises(VestibuleError) as refused:
        await lab.again()
    assert refused.value.code is CHECKPOINT_CONFLICT
    leaves.unlink()
    assert "hashes of 0 records" in lab.problem


async def test_a_checkpoint_by_another_key_is_refused(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    other = NoteSigner(SIGNER.name, bytes(31) + b"1").verifier
    assert "not signed by that key" in verify_signed(lab.path, other).problem


async def test_a_checkpoint_kept_elsewhere_convicts_a_log_that_was_made_anew_with_the_key(lab: Lab) -> None:
    await lab.record(5)
    await lab.checkpointer.checkpoint()
    assert lab.checkpointer.latest is not None
    kept = documents.parsed(str(lab.checkpointer.latest))
    for file in lab.path.parent.iterdir():
        file.unlink()
    fresh = await Lab(lab.path).open()
    await fresh.record(1)
    await fresh.record(6)
    await fresh.checkpointer.checkpoint()
    await fresh.log.close()
    assert lab.problem == ""
    assert verify_signed(lab.path, KEY, kept).problem == "the first 5 records are not those that were signed"


async def test_records_that_were_removed_to_make_room_keep_their_place(tmp_path: Path) -> None:
    lab = await Lab(tmp_path / "audit.jsonl", max_bytes=1000, max_files=2).open()
    await lab.record(30)
    await lab.checkpointer.checkpoint()
    await lab.log.close()
    report = verify(lab.path)
    assert report.ok
    assert report.first > 1
    assert lab.problem == ""
    assert prove(lab.path, report.last_seq).check(KEY)["seq"] == report.last_seq


async def test_a_log_that_was_there_before_checkpoints_gets_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "audit.jsonl", max_bytes=1000, max_files=2)
    await lab.log.open()
    await lab.record(30)
    await lab.log.close()
    lab = await Lab(lab.path).open()
    await lab.checkpointer.checkpoint()
    await lab.log.close()
    assert lab.problem == ""


async def test_one_record_is_proven_without_the_log(lab: Lab) -> None:
    await lab.record(9)
    await lab.checkpointer.checkpoint()
    document = json.dumps(prove(lab.path, 4).document)
    assert "secret/7" not in document
    assert Proof.parse(document).check(KEY)["subject"] == "secret/3"


async def test_a_changed_record_or_another_key_is_not_proven(lab: Lab) -> None:
    await lab.record(9)
    await lab.checkpointer.checkpoint()
    proof = prove(lab.path, 4)
    other = lab.lines[4].decode()
    for changed, key in (
        (Proof(line=other, path=proof.path, checkpoint=proof.checkpoint), KEY),
        (Proof(line=proof.line.replace("web", "dba"), path=proof.path, checkpoint=proof.checkpoint), KEY),
        (Proof(line=proof.line, path=proof.path[1:], checkpoint=proof.checkpoint), KEY),
        (proof, NoteSigner(SIGNER.name, bytes(31) + b"1").verifier),
    ):
        with pytest.raises(VestibuleError) as refused:
            changed.check(key)
        assert refused.value.code is PROOF_INVALID


async def test_what_no_checkpoint_covers_yet_is_not_provable(lab: Lab) -> None:
    await lab.record(2)
    for number in (1, 3):
        with pytest.raises(VestibuleError) as refused:
            prove(lab.path, number)
        assert refused.value.code is NOT_PROVABLE


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"record": 1, "path": [], "checkpoint": ""}', "[" * 10_000]
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        Proof.parse(text)
    assert refused.value.code is PROOF_INVALID


async def test_a_full_disk_is_told_and_the_log_goes_on(lab: Lab) -> None:
    await lab.record(2)
    leaves = lab.path.with_name(f"audit.jsonl{LEAVES}")
    leaves.mkdir()
    await lab.checkpointer.checkpoint()
    assert lab.checkpointer.failing
    await lab.record(1)
    leaves.rmdir()
    await lab.checkpointer.checkpoint()
    assert not lab.checkpointer.failing
    assert verify_signed(lab.path, KEY).covered == 3


async def test_old_checkpoints_make_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestibule.audit.checkpointing.LARGEST_FILE", 2000)
    for _ in range(20):
        await lab.record(1)
        await lab.checkpointer.checkpoint()
    report = verify_signed(lab.path, KEY)
    assert (report.problem, report.covered) == ("", 20)
    assert report.checkpoints < 12


def test_what_is_no_checkpoint_is_passed_over() -> None:
    assert documents.parsed("a\n1\n\n— a b\n") == []
    assert documents.parsed("a\nx\nAAAA\n\n— a b\n") == []
    assert documents.parsed("") == []
