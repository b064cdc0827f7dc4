"""``vestibule secret`` against a secret manager that is sealed by shares: as the operator, and as a workload."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.unit.secrets.test_access import group, identity, intent, rule

from vestibule.app.main import cli
from vestibule.audit import AuditLog
from vestibule.cli.secret_values import MASK
from vestibule.clock import SystemClock
from vestibule.doors import secrets_admin, secrets_sealing
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PRIVATE, listen_unix
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.anchor import FileAnchor
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.sealing import Sealing
from vestibule.secrets.seals.shares import ShamirSeal
from vestibule.secrets.versions import Versions
from vestibule.spiffe import TrustDomain
from vestibule.store.sqlite import open_store
from vestibule.testing.vault import MemoryVault


class Lab:
    """A secret manager in a thread of its own, since commands run their own event loops."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "server.sock"
        self.audit_log = directory / "audit.jsonl"
        self.address = ""
        self.shares: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._open = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._started(), self._loop).result(60)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open.aclose(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _started(self) -> None:
        clock = SystemClock()
        store = await open_store(self.directory / "vestibule.db", clock)
        self._open.push_async_callback(store.close)
        audit = AuditLog(self.audit_log, clock)
        await audit.open()
        self._open.push_async_callback(audit.close)
        barrier = SealedBarrier(store.sealed_rows, store.changes, audit)
        anchor = FileAnchor(self.directory / "anchor")
        sealing = Sealing(barrier, ShamirSeal(), audit=audit, anchor=anchor, leads=lambda: True)
        rules = intent(group(rule(may=["read", "list"])))
        vault = MemoryVault(IntentAccess(lambda: rules, clock), identity("payments"), clock)
        vault.keep_in(Versions(barrier, clock), audit)
        door = secrets_admin.SecretsAdminDoor(
            vault.pipeline.answer, sealing, TrustDomain("example.org"), clock
        )
        server, listener = GrpcServer([door.servable()]), listen_unix(self.socket, PRIVATE)
        await server.listen(listener.sock)
        self._open.callback(listener.close)
        self._open.push_async_callback(server.close)
        self.address = await self._open.enter_async_context(vault.served())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    patch = pytest.MonkeyPatch()
    for module in (secrets_admin, secrets_sealing):
        patch.setattr(module, "actor", lambda: "local:uid=1000")
    directory = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    made = Lab(directory)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)
        patch.undo()


Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The exit code, the data of the JSON answer, and what else was said."""
    monkeypatch.delenv("VESTIBULE_UPSTREAM_SECRETS", raising=False)

    def run(*words: str, given: str = "", address: str = "", text: bool = False) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        place = ["--address", address] if address else ["--server-socket", str(lab.socket)]
        place = [] if words[0] == "access-log" else place
        with pytest.raises(SystemExit) as ended:
            cli(["secret", *words, *place, *([] if text else ["--output", "json"])])
        told = capsys.readouterr()
        code = int(ended.value.code or 0)
        return code, told.out if text else json.loads(told.out), told.err

    return run


@pytest.fixture
def unsealed(lab: Lab, run: Run) -> Lab:
    if not lab.shares:
        lab.shares = run("init", "--shares", "3", "--threshold", "2")[1]["data"]["keys"]
    if run("status")[1]["data"]["sealed"]:
        assert run("unseal", given="\n".join(lab.shares[:2]))[0] == 0
    return lab


def test_what_was_put_is_got(unsealed: Lab, run: Run) -> None:
    code, told, _ = run("put", "payments/db", "password=-", given="s3cret\n")
    assert (code, told["data"]) == (0, {"path": "secret/payments/db", "version": 1})
    assert run("get", "secret/payments/db")[1]["data"]["data"] == {"password": "s3cret"}
    assert run("get", "payments/db", "--field", "password", text=True)[1] == "s3cret"
    assert json.loads(run("get", "payments/db", text=True)[1]) == {"password": "s3cret"}


def test_a_value_on_the_command_line_is_refused_and_not_repeated(unsealed: Lab, run: Run) -> None:
    code, told, _ = run("put", "payments/argv", "password=hunter2")
    assert (code, told["errors"][0]["code"]) == (2, "VST9100")
    assert "hunter2" not in json.dumps(told)
    assert run("get", "payments/argv")[0] == 4


def test_values_come_from_files_and_objects_too(unsealed: Lab, run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    (tmp_path / "all.json").write_text('{"a": 1, "b": {"c": true}}')
    run("put", "payments/files", f"key=@{tmp_path / 'key'}", "other=-", given="o")
    assert run("get", "payments/files")[1]["data"]["data"] == {"key": "k\n", "other": "o"}
    run("put", "payments/files", "--file", str(tmp_path / "all.json"))
    assert run("get", "payments/files")[1]["data"]["data"] == {"a": 1, "b": {"c": True}}
    run("put", "payments/files", given='{"x": "y"}')
    assert run("get", "payments/files")[1]["data"]["data"] == {"x": "y"}
    run("put", "payments/files", "--patch", "z=-", given="1")
    assert run("get", "payments/files")[1]["data"]["data"] == {"x": "y", "z": "1"}


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("a=-", "b=-"), "x"),
        (("a=-", "a=-"), "x"),
        (("=-",), "x"),
        (("a=@/nonexistent",), ""),
        (("a",), ""),
        ((), "[]"),
        ((), "no json"),
        (("--file", "/nonexistent"), ""),
        (("--file", "-", "a=-"), "{}"),
    ],
)
def test_what_makes_no_sense_is_refused(unsealed: Lab, run: Run, words: tuple[str, ...], given: str) -> None:
    code, told, _ = run("put", "payments/nonsense", *words, given=given)
    assert (code, told["errors"][0]["code"]) == (2, "VST9100")


def test_a_terminal_shows_masks(unsealed: Lab, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("put", "payments/masked", given='{"password": "s3cret"}')
    monkeypatch.setattr("vestibule.cli.secret_values.sys.stdout.isatty", lambda: True, raising=False)
    shown = run("get", "payments/masked", text=True)[1]
    assert MASK in shown
    assert "s3cret" not in shown
    assert run("get", "payments/masked")[1]["data"]["data"] == {"password": MASK}
    assert "s3cret" in run("get", "payments/masked", "--raw", text=True)[1]


def test_versions_are_told_taken_back_and_destroyed(unsealed: Lab, run: Run) -> None:
    for number in (1, 2, 3):
        run("put", "payments/versions", given=json.dumps({"n": number}))
    assert (
        "check-and-set"
        in run("put", "payments/versions", "--cas", "1", given="{}")[1]["errors"][0]["message"]
    )
    assert run("rollback", "payments/versions", "1")[1]["data"]["version"] == 4
    assert run("get", "payments/versions")[1]["data"]["data"] == {"n": 1}
    run("delete", "payments/versions")
    assert run("get", "payments/versions")[1]["errors"][0]["code"] == "VST2409"
    run("undelete", "payments/versions", "--version", "4")
    run("destroy", "payments/versions", "--version", "2")
    told = run("history", "payments/versions")[1]["data"]["versions"]
    assert [(each["version"], each["newest"], each["destroyed"]) for each in told] == [
        (4, True, False),
        (3, False, False),
        (2, False, True),
        (1, False, False),
    ]
    assert told[0]["created_by"]["actor"] == "local:uid=1000"
    assert "destroyed" in run("history", "payments/versions", text=True)[1]
    assert "versions" in run("list", "payments")[1]["data"]["keys"]
    run("destroy", "payments/versions", "--all")
    assert run("history", "payments/versions")[0] == 4
    assert run("destroy", "payments/versions")[0] == 2


def test_rotating_a_field_makes_a_value_that_nobody_saw(unsealed: Lab, run: Run) -> None:
    run("put", "payments/rotated", given='{"user": "u", "password": "old"}')
    code, told, _ = run("rotate", "payments/rotated", "--field", "password")
    assert (code, told["data"]["version"]) == (0, 2)
    found = run("get", "payments/rotated")[1]["data"]["data"]
    assert found["user"] == "u"
    assert (len(found["password"]), found["password"] != "old") == (32, True)
    assert found["password"] not in json.dumps(told)
    assert run("rotate", "payments/rotated")[0] == 2
    assert run("rotate", "database/creds/x")[0] == 2


def test_what_is_not_there_says_so(unsealed: Lab, run: Run) -> None:
    assert run("get", "payments/none")[0] == 4
    assert run("list", "none")[0] == 1
    run("put", "payments/field", given='{"a": "b"}')
    code, told, _ = run("get", "payments/field", "--field", "c")
    assert (code, told["errors"][0]["advice"]) == (4, "It has a.")


def test_a_workload_is_held_to_the_rules(unsealed: Lab, run: Run) -> None:
    run("put", "payments/workload", given='{"a": "b"}')
    run("put", "orders/workload", given='{"a": "b"}')
    assert run("get", "payments/workload", address=unsealed.address)[1]["data"]["data"] == {"a": "b"}
    assert "workload" in run("list", "payments", address=unsealed.address)[1]["data"]["keys"]
    code, told, _ = run("get", "orders/workload", address=unsealed.address)
    assert (code, told["errors"][0]["code"]) == (4, "VST5300")
    assert run("put", "payments/workload", given="{}", address=unsealed.address)[0] == 4
    assert run("get", "payments/none", address=unsealed.address)[1]["errors"][0]["code"] == "VST2409"


def test_the_access_log_says_who_had_which_secret_by_which_rule(unsealed: Lab, run: Run) -> None:
    run("put", "payments/logged", given='{"a": "canary-value"}')
    run("get", "payments/logged", address=unsealed.address)
    run("get", "orders/logged", address=unsealed.address)
    log = ["--log", str(unsealed.audit_log)]
    found = run("access-log", "payments/logged", *log)[1]["data"]["accesses"]
    assert [
        (each["caller"], each["verb"], each["version"], each["rule"], each["outcome"]) for each in found
    ] == [
        ("local:uid=1000", "write", 1, "operator", "ok"),
        (str(identity("payments")), "read", 1, "payments/r0", "ok"),
    ]
    assert found[1]["commit"]
    denied = run("access-log", "--denied", "--caller", "*payments", *log)[1]["data"]["accesses"]
    assert ("secret/orders/logged", "VST5300") in [(each["secret"], each["code"]) for each in denied]
    assert "canary-value" not in unsealed.audit_log.read_text()
    assert "Found" in run("access-log", *log, text=True)[1]


def test_sealed_nobody_gets_anything_until_enough_shares_are_given(unsealed: Lab, run: Run) -> None:
    assert run("status")[0] == 0
    assert run("seal")[1]["data"]["sealed"]
    assert run("get", "payments/db")[1]["errors"][0]["code"] == "VST5000"
    assert run("status")[0] == 1
    code, told, _ = run("unseal", given=unsealed.shares[0])
    assert (code, told["data"]["progress"]) == (1, 1)
    assert "1 of 2 shares" in run("status", text=True)[1]
    wrong = "00" * 32 + "01"
    assert run("unseal", given=wrong)[1]["errors"][0]["code"].startswith("VST50")
    assert wrong not in json.dumps(run("unseal", given=wrong)[1])
    assert run("unseal", given="no share")[0] == 2
    assert run("unseal", "--reset")[1]["data"]["progress"] == 0
    assert run("unseal", given="\n".join(unsealed.shares[1:]))[0] == 0


def test_keys_are_rotated_and_the_seal_replaced(unsealed: Lab, run: Run) -> None:
    before = run("status")[1]["data"]["data_key"]
    assert run("rotate-keys")[1]["data"]["data_key"] == before + 1
    assert run("rotate-keys", "--root")[0] == 4
    code, told, _ = run("rekey", "--shares", "2", "--threshold", "2", given="\n".join(unsealed.shares[:2]))
    assert (code, told["data"]["complete"], len(told["data"]["keys"])) == (0, True, 2)
    unsealed.shares = told["data"]["keys"]
    run("seal")
    assert run("unseal", given="\n".join(unsealed.shares))[0] == 0
    assert run("rekey", given="")[0] == 1
    assert run("rekey", "--cancel")[0] == 0
    assert run("init")[0] == 4


def test_a_backup_brings_back_what_was_destroyed(unsealed: Lab, run: Run, tmp_path: Path) -> None:
    run("put", "payments/kept", given='{"a": "canary-value"}')
    (tmp_path / "passphrase").write_text("correct horse\n")
    file, passphrase = tmp_path / "backup", ["--passphrase-file", str(tmp_path / "passphrase")]
    code, told, _ = run("backup", str(file), *passphrase)
    assert (code, told["data"]["bytes"]) == (0, file.stat().st_size)
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"canary-value" not in file.read_bytes()
    run("destroy", "payments/kept", "--all")
    assert run("restore", str(file), *passphrase)[0] == 4
    assert run("restore", str(file), "--overwrite", "--passphrase-file", "-", given="wrong")[0] in (2, 4)
    assert run("restore", str(file), "--overwrite", *passphrase)[0] == 0
    assert run("status")[0] == 1
    assert run("unseal", "--accept-rollback", given="\n".join(unsealed.shares))[0] == 0
    assert run("get", "payments/kept")[1]["data"]["data"] == {"a": "canary-value"}
