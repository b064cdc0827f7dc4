"""`vestibule up` as people run it: everything proven, and nothing left behind however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.network_lab import own_network, why_not

from vestibule.app.up.operator import Operator
from vestibule.cli.run_state import RunState

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"
PROOFS = [
    "identity-attested",
    "call-allowed",
    "call-denied",
    "plaintext-refused",
    "foreign-ca-refused",
    "wrong-identity-refused",
    "rotation-lossless",
    "policy-live",
    "server-outage-survived",
]
# An app that answers nothing but errors, and if it is stubborn does not go when it is asked to.
APP = """
import os, signal
from http.server import BaseHTTPRequestHandler, HTTPServer
if os.environ["STUBBORN"] == "yes":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500)
        self.send_header("content-length", "0")
        self.end_headers()

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def vestibule(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vestibule", *arguments]


def run(*arguments: str, cwd: Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        vestibule(*arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def belonging_to(runtime: Path) -> dict[int, str]:
    """Every process whose arguments or environment name the runtime directory: all that a run starts."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
            if os.fsencode(runtime) in words + (entry / "environ").read_bytes():
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):
            continue
    return found


def what_was_logged(logs: Path, lines: int = 30, width: int = 240) -> str:
    """The end of each log, for a failure that cannot be looked into where it happened."""
    told = []
    for log in sorted(logs.glob("*.log")):
        told += [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-lines:]]
    return "\n".join(line[:width] for line in told)


@dataclass
class Up:
    """A running `vestibule up`, past the moment when everything was ready."""

    process: asyncio.subprocess.Process
    state: Path
    envelope: dict[str, Any]
    note: RunState

    async def end(self, within: float = 90.0) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def up(cwd: Path, *arguments: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *vestibule("up", *arguments, "--output", "json"),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    note: RunState | None = None
    try:
        text = b""
        async with asyncio.timeout(180):
            while not text.endswith(b"\n}\n"):
                line = await process.stdout.readline()
                assert line, f"it ended instead: {text!r} {await process.stderr.read()!r}"  # type: ignore[union-attr]
                text += line
        assert json.loads(text)["errors"] == []
        note = RunState.read(cwd / ".vestibule")
        assert note is not None
        yield Up(process, cwd / ".vestibule", json.loads(text), note)
    except BaseException as error:
        error.add_note(what_was_logged(cwd / ".vestibule" / "logs"))
        if note is not None:
            error.add_note("\n".join(f"{pid} {words}" for pid, words in belonging_to(note.runtime).items()))
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        for pid in belonging_to(note.runtime) if note is not None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_once_proves_all_promises_in_order_and_the_last_where_it_can_be_tried(tmp_path: Path) -> None:
    """Where root and the kernel allow it, under the boundary that keeps other users out."""
    if why_not() is not None:
        promised, ended = (
            [*PROOFS, "secret-read", "token-vended"],
            run("up", "--once", "--output", "json", cwd=tmp_path),
        )
    else:
        promised = [*PROOFS, "secret-read", "token-vended", "other-uid-refused"]
        with own_network():
            ended = run("up", "--once", "--boundary", "guard", "--output", "json", cwd=tmp_path)
    answer = json.loads(ended.stdout)
    assert answer["schema"] == "vestibule.up/v1"
    assert answer["errors"] == []
    data = answer["data"]
    assert [each["id"] for each in data["proofs"]] == promised
    assert {each["id"]: each["detail"] for each in data["proofs"] if not each["ok"]} == {}
    assert all(each["detail"] for each in data["proofs"])
    assert 0 < data["ready_seconds"] < 60
    assert list(data["parts"]) == ["plan", "server", "agent", "entries", "sidecars", "calls"]
    assert data["parts"]["calls"] == data["ready_seconds"]
    assert ended.returncode == 0
    # Only the logs stay.
    (once,) = (tmp_path / ".vestibule").iterdir()
    assert [path.name for path in once.iterdir()] == ["logs"]


async def test_while_it_runs_it_is_healthy_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    async with up(tmp_path, str(SHOP)) as running:
        assert running.note.is_running
        assert set(running.envelope["data"]["egress"]) == {"orders", "payments", "reports", "web"}
        check = await asyncio.to_thread(run, "check", "--output", "json", cwd=tmp_path)
        assert check.returncode == 0, check.stdout
        levels = {each["id"]: each["result"] for each in json.loads(check.stdout)["data"]["checks"]}
        assert levels["proxies-in-sync"] == levels["svids-renewed"] == levels["server-ready"] == "fine"
        assert levels["boundary"] == "warning"
        status = await asyncio.to_thread(run, "status", "--output", "json", cwd=tmp_path)
        proxies = json.loads(status.stdout)["data"]["proxies"]
        assert {each["service"]: each["synced"] for each in proxies} == dict.fromkeys(
            ("orders", "payments", "reports", "web"), True
        )
        second = await asyncio.to_thread(run, "up", str(SHOP), "--output", "json", cwd=tmp_path)
        assert json.loads(second.stdout)["errors"][0]["code"] == "VST7302"
        assert second.returncode != 0

        assert len(belonging_to(running.note.runtime)) >= 2 + 4 * 3
        running.process.send_signal(signal.SIGINT)
        assert await running.end() == 0
        assert belonging_to(running.note.runtime) == {}
        assert not running.note.runtime.exists()
        assert RunState.read(running.state) is None
        check = await asyncio.to_thread(run, "check", "--output", "json", cwd=tmp_path)
        assert check.returncode == 3


async def test_where_all_is_decided_centrally_calls_wait_for_an_agent_that_restarts(tmp_path: Path) -> None:
    """Envoys ask again, the agent knows them again at once, and decides by what it kept."""
    mesh = small_mesh(tmp_path / "mesh")
    (mesh / "app.py").write_text(APP.replace("500", "204"))
    with (mesh / "mesh.yaml").open("a") as file:
        file.write("decide: central\n")
    async with up(tmp_path, str(mesh)) as running:
        egress = running.envelope["data"]["egress"]["web"]
        async with httpx.AsyncClient(proxy=f"http://{egress}", timeout=60) as client:
            assert (await client.get("http://api/")).status_code == 204
            assert (await client.post("http://api/")).status_code == 403
            (agent,) = [
                pid for pid, words in belonging_to(running.note.runtime).items() if " agent run" in words
            ]
            os.kill(agent, signal.SIGKILL)
            assert (await client.post("http://api/")).status_code in (403, 503)
            # On a machine that is busy it may take longer than a proxy waits.
            async with asyncio.timeout(60):
                while (await client.get("http://api/")).status_code != 204:
                    pass
            assert (await client.post("http://api/")).status_code == 403


async def test_after_a_kill_the_next_start_works_and_leaves_nothing(tmp_path: Path) -> None:
    async with up(tmp_path, str(SHOP)) as killed:
        killed.process.kill()
        await killed.end()
        # The kernel ends what was started directly; it may take the rest with it, or leave it to the next start.
        assert killed.note.runtime.exists()
        async with up(tmp_path, str(SHOP)) as running:
            assert belonging_to(killed.note.runtime) == {}
            assert not killed.note.runtime.exists()
            running.process.send_signal(signal.SIGTERM)
            assert await running.end() == 0
            assert belonging_to(running.note.runtime) == {}
            assert not running.note.runtime.exists()


def small_mesh(directory: Path, *, stubborn: bool = False) -> Path:
    (directory / "services").mkdir(parents=True)
    (directory / "mesh.yaml").write_text("mesh: m\ntrust_domain: example.org\nenvironment: test\n")
    for name, allow in (("api", "[{id: web, from: [web], methods: [GET], paths: [/]}]"), ("web", "[]")):
        (directory / "services" / f"{name}.yaml").write_text(
            f"service: {name}\nports: {{http: {{protocol: http}}}}\nallow: {allow}\n"
        )
    (directory / "app.py").write_text(APP)
    app = f"{{run: [python, app.py], env: {{STUBBORN: '{'yes' if stubborn else 'no'}'}}}}"
    (directory / "up.yaml").write_text(f"apps:\n  api: {app}\n  web: {app}\n")
    return directory


async def test_a_second_ctrl_c_does_not_wait_for_an_app_that_will_not_go(tmp_path: Path) -> None:
    async with up(tmp_path, str(small_mesh(tmp_path / "mesh", stubborn=True))) as running:
        with Operator(running.note.server_socket) as operator:
            running.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                while (await operator.status()).proxies:
                    await asyncio.sleep(0.05)
        # All have left the mesh; what is waited for now are the apps.
        assert running.process.returncode is None
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        await running.end()
        assert time.monotonic() - began < 9  # what apps get before they are killed: 10 s
        assert belonging_to(running.note.runtime) == {}
        assert not running.note.runtime.exists()


def test_a_promise_that_does_not_hold_is_reported_and_fails_the_run(tmp_path: Path) -> None:
    ended = run("up", "--once", "--output", "json", str(small_mesh(tmp_path / "mesh")), cwd=tmp_path)
    data = json.loads(ended.stdout)["data"]
    outcomes = {each["id"]: each for each in data["proofs"]}
    assert list(outcomes) == PROOFS
    assert outcomes["identity-attested"]["ok"]
    assert not outcomes["call-allowed"]["ok"]
    assert "GET / was answered 500" in outcomes["call-allowed"]["detail"]
    assert data["ready_seconds"] is None
    assert ended.returncode == 1


def test_an_app_that_does_not_start_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    mesh = small_mesh(tmp_path / "mesh")
    (mesh / "app.py").write_text("raise SystemExit('the database is missing')")
    ended = run("up", "--once", "--output", "json", str(mesh), cwd=tmp_path)
    answer = json.loads(ended.stdout)
    assert [each["id"] for each in answer["data"]["proofs"]] == PROOFS
    assert not any(each["ok"] for each in answer["data"]["proofs"])
    assert "the database is missing" in answer["errors"][0]["message"]
    assert ended.returncode == 1
