"""``vestibule audit verify``."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from vestibule.audit import AuditEvent, AuditLog, verify
from vestibule.audit.checkpointing import Checkpointer
from vestibule.audit.notes import NoteSigner
from vestibule.cli import audit, audit_proofs, audit_records, audit_search
from vestibule.cli.output import Exit, Output
from vestibule.cli.run_state import RunState
from vestibule.clock import SystemClock
from vestibule.processes import procfs


async def a_log(path: Path, records: int = 3) -> Path:
    log = AuditLog(path, SystemClock())
    await log.open()
    for number in range(records):
        event = AuditEvent(actor="server", action="svid.issue", subject=f"spiffe://example.org/{number}")
        await log.record([event])
    await log.close()
    return path


def outcome(path: Path, output: Output = Output.TEXT) -> int:
    with pytest.raises(typer.Exit) as left:
        audit.check(path, output)
    return int(left.value.exit_code)


async def test_a_whole_log_is_found_whole(tmp_path: Path) -> None:
    report = verify(await a_log(tmp_path / "audit.jsonl"))
    told = audit.document(tmp_path / "audit.jsonl", report)
    assert (told["whole"], told["records"], told["problem"]) == (True, 3, None)


def test_the_outcome_is_told_by_the_exit_code_and_in_the_envelope(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = asyncio.run(a_log(tmp_path / "audit.jsonl"))
    assert outcome(log) == Exit.FINE
    assert "3 records, none changed, removed or inserted" in capsys.readouterr().out
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[2])
    assert outcome(log) == Exit.FINDINGS
    assert f"{log}:2: record 3 does not follow record 1" in capsys.readouterr().out
    assert outcome(log, Output.JSON) == Exit.FINDINGS
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "vestibule.audit-verification/v1"
    assert answer["data"]["problem"]["line"] == 2


def test_a_log_that_is_not_there_is_an_error_with_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(tmp_path / "none.jsonl") == Exit.UNREACHABLE
    assert "VST8100" in capsys.readouterr().err


def test_without_a_path_it_is_the_log_of_the_run_in_this_directory(tmp_path: Path) -> None:
    assert audit.find_log(tmp_path) == audit.SYSTEM_LOG
    RunState(
        pid=os.getpid(),
        start_time=procfs.start_time(os.getpid()) or 0,
        intent=tmp_path,
        runtime=tmp_path,
        server_socket=tmp_path,
        agent_socket=tmp_path,
        admin_socket=tmp_path,
        access_log=tmp_path,
        trust_bundle=tmp_path,
        server_address="",
        health_address="",
    ).write(tmp_path)
    assert audit.find_log(tmp_path) == tmp_path / "server" / "audit.jsonl"


def left(command: Callable[[], None]) -> int:
    with pytest.raises(typer.Exit) as caught:
        command()
    return int(caught.value.exit_code)


def test_a_cut_log_is_found_by_its_anchor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = asyncio.run(a_log(tmp_path / "audit.jsonl"))
    assert left(lambda: audit.anchor(log)) == Exit.FINE
    kept = tmp_path / "anchor"
    kept.write_text(capsys.readouterr().out)
    assert left(lambda: audit.check(log, Output.TEXT, str(kept))) == Exit.FINE
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert left(lambda: audit.check(log)) == Exit.FINE, "the log itself cannot tell"
    assert left(lambda: audit.check(log, Output.TEXT, str(kept))) == Exit.FINDINGS
    assert "cut off" in capsys.readouterr().out
    assert left(lambda: audit.check(log, Output.TEXT, "nonsense")) == Exit.USAGE


def test_records_are_listed_shown_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = asyncio.run(a_log(tmp_path / "audit.jsonl"))
    assert left(lambda: audit_records.list_records(log, subject="*/1", since="1h")) == Exit.FINE
    assert capsys.readouterr().out.splitlines()[-1] == "Found 1 record"
    assert left(lambda: audit_records.list_records(log, limit=2, output=Output.JSON)) == Exit.FINE
    assert [each["seq"] for each in json.loads(capsys.readouterr().out)["data"]["records"]] == [2, 3]
    assert left(lambda: audit_records.show(2, log)) == Exit.FINE
    assert "subject spiffe://example.org/1" in capsys.readouterr().out
    assert left(lambda: audit_records.show(9, log)) == Exit.USAGE
    assert left(lambda: audit_records.list_records(log, since="yesterday")) == Exit.USAGE
    capsys.readouterr()
    assert left(lambda: audit_records.export(log)) == Exit.FINE
    assert capsys.readouterr().out == log.read_text(), "as it stands in the log"
    assert left(lambda: audit_records.export(log, output=Output.JSON)) == Exit.FINE
    assert [each["seq"] for each in json.loads(capsys.readouterr().out)["data"]] == [1, 2, 3]
    assert left(lambda: audit_records.export(log, form=audit_records.Form.CSV)) == Exit.FINE
    assert capsys.readouterr().out.splitlines()[0].startswith("seq,time,actor,action")


SIGNER = NoteSigner("vestibule.audit/example.org/one", bytes(32))


async def a_signed_log(path: Path) -> Path:
    await a_log(path, 5)
    checkpointer = Checkpointer(path, SIGNER, SystemClock())
    await checkpointer.open(5)
    await checkpointer.checkpoint()
    path.with_name(f"{path.name}.pub").write_text(f"{SIGNER.verifier}\n")
    return path


def told(work: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(typer.Exit) as left:
        work()
    return int(left.value.exit_code), capsys.readouterr().out


def test_a_log_is_checked_against_its_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = asyncio.run(a_signed_log(tmp_path / "audit.jsonl"))
    code, text = told(lambda: audit.check(log), capsys)
    assert code == Exit.FINE
    assert "1 signed checkpoint(s) of up to 5 records" in text
    assert "by the key beside the log" in text
    code, text = told(lambda: audit.check(log, key=str(SIGNER.verifier)), capsys)
    assert code == Exit.FINE
    assert "beside the log" not in text


def test_a_log_that_was_written_anew_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = asyncio.run(a_signed_log(tmp_path / "audit.jsonl"))
    log.unlink()
    asyncio.run(a_log(log, 5))
    code, text = told(lambda: audit.check(log, Output.JSON), capsys)
    assert code == Exit.FINDINGS
    data = json.loads(text)["data"]
    assert data["whole"]
    assert data["checkpoints"]["problem"] == "record 1 is not the one that was signed"


def test_a_record_is_proven_and_the_proof_is_checked_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, proof = asyncio.run(a_signed_log(tmp_path / "audit.jsonl")), tmp_path / "proof"
    for output in (Output.TEXT, Output.JSON):
        code, text = told(lambda output=output: audit_proofs.prove_record(2, log, output), capsys)  # type: ignore[misc]
        assert code == Exit.FINE
        proof.write_text(text)
        code, text = told(lambda: audit_proofs.check_proof(str(proof), str(SIGNER.verifier)), capsys)
        assert code == Exit.FINE
        assert "record 2 is in the log vestibule.audit/example.org/one" in text
    other = NoteSigner(SIGNER.name, bytes(31) + b"1").verifier
    code, text = told(lambda: audit_proofs.check_proof(str(proof), str(other)), capsys)
    assert code == Exit.FINDINGS
    assert "not signed" in text


def test_the_key_beside_a_log_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = asyncio.run(a_signed_log(tmp_path / "audit.jsonl"))
    assert told(lambda: audit_proofs.key(log), capsys) == (Exit.FINE, f"{SIGNER.verifier}\n")


@pytest.mark.parametrize("key", ["nothing", "a+b+c", "/does/not/exist"])
def test_what_is_no_key_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    log = asyncio.run(a_signed_log(tmp_path / "audit.jsonl"))
    code, _ = told(lambda: audit.check(log, key=key), capsys)
    assert code == Exit.USAGE


def test_a_word_is_found_in_the_logs_of_several_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (asyncio.run(a_log(tmp_path / name / "audit.jsonl")) for name in ("a", "b"))
    code, text = told(lambda: audit_search.search("example.org/1", [first, second]), capsys)
    assert code == Exit.FINE
    assert "Found 2 records" in text
    assert str(second) in text
    assert "Found 0 records" in told(lambda: audit_search.search("nobody", [first]), capsys)[1]
    code, text = told(lambda: audit_search.search("svid.*", [first], output=Output.JSON), capsys)
    assert len(json.loads(text)["data"]["records"]) == 3
