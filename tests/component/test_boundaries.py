"""The boundaries guard and netns, and interception, with the real Envoy and the real kernel, against other users.

Everything happens in a network namespace that the test makes itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.component.fake_agent import FakeAgent, until, view
from tests.component.test_sidecar import Running, Stage, role
from tests.network_lab import STRANGER, add_rules, asks, other_python, own_network, tables
from tests.ports import free_port

from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

pytestmark = pytest.mark.timeout(180)

APP_USER = 61_001
ENVOY_USER = 61_002
XFCC = "x-forwarded-client-cert: URI=spiffe://example.org/ns/test/sa/orders"


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
async def stage(network: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    run = Path("/tmp") / f"vb{os.getpid()}{os.urandom(2).hex()}"
    run.mkdir(mode=0o755)
    agent = FakeAgent(run / "agent.sock", view("payments", upstreams=("ledger", "bank/http")))
    await agent.start()
    stage = Stage(run, agent)
    try:
        yield stage
    finally:
        await stage.end()
        await agent.stop()
        shutil.rmtree(run)


async def started(stage: Stage, *words: str) -> tuple[Running, wire.Instance]:
    running = await stage.sidecar(*words, "--drain", "0.5", python=other_python())
    await running.until_ready()
    assert stage.agent.instance is not None
    return running, stage.agent.instance


async def answered(uid: int, address: str, *headers: str, inside: int | None = None) -> bool:
    answer = await asyncio.to_thread(partial(asks, uid, address, *headers, namespace_of=inside))
    assert answer.startswith((b"HTTP/1.1 ", b"refused: ")), answer
    return answer.startswith(b"HTTP/1.1 200")


async def test_guard_another_user_borrows_no_identity_and_reaches_no_app(stage: Stage) -> None:
    add_rules("table inet others { chain c { type filter hook output priority 0; policy accept; }\n}\n")
    running, instance = await started(
        stage, "--boundary", "guard", "--user", str(APP_USER), "--proxy-user", str(ENVOY_USER)
    )
    ways_out = [instance.egress, instance.upstreams["ledger"], instance.upstreams["bank/http"]]

    # The counter-check first: the service's own user is answered, and the app is reached through the door.
    assert [await answered(APP_USER, each) for each in ways_out] == [True] * 3
    assert await answered(STRANGER, instance.ingress["http"])
    assert await answered(ENVOY_USER, instance.apps["http"])

    assert [await answered(STRANGER, each) for each in ways_out] == [False] * 3
    assert not await answered(STRANGER, instance.apps["http"], XFCC)
    assert not await answered(STRANGER, instance.apps["http"].replace("127.0.0.1", "127.1.2.3"), XFCC)
    # Not even as root, which could become anybody, but not by accident.
    assert not await answered(0, instance.egress)

    owners = {each: Path(f"/proc/{role(stage.agent, each)}").stat().st_uid for each in ("app", "envoy")}
    assert owners == {"app": APP_USER, "envoy": ENVOY_USER}
    running.process.terminate()
    assert await running.ended() == 0
    assert "vestibule" not in tables()
    assert "others" in tables()


async def test_guard_a_new_upstream_is_guarded_before_it_is_announced(stage: Stage) -> None:
    await started(stage, "--boundary", "guard", "--user", str(APP_USER))
    await stage.agent.describe(view("payments", upstreams=("ledger", "bank/http", "stock")))
    await until(lambda: stage.agent.instance is not None and "stock" in stage.agent.instance.upstreams)
    assert stage.agent.instance is not None
    port = stage.agent.instance.upstreams["stock"].rpartition(":")[2]
    assert port in tables()
    assert not await answered(STRANGER, stage.agent.instance.upstreams["stock"])


async def test_guard_the_rules_of_a_killed_sidecar_stay_until_the_next_start_and_go_then(
    stage: Stage,
) -> None:
    running, instance = await started(stage, "--boundary", "guard")
    os.kill(running.pid, signal.SIGKILL)
    await running.ended()
    left = [line for line in tables().splitlines() if line.startswith("table inet vestibule")]
    assert len(left) == 1, "who reaches nothing needs no protection; what closes closes"

    again, _ = await started(stage, "--boundary", "guard")
    now = [line for line in tables().splitlines() if line.startswith("table inet vestibule")]
    assert len(now) == 1
    assert now != left
    assert "removed the packet filters of a killed sidecar" in again.text
    assert not instance.egress.startswith("unix:")


async def test_guard_an_app_port_held_by_another_user_is_not_believed(stage: Stage) -> None:

    port = free_port()
    other = await asyncio.create_subprocess_exec(
        other_python(), "-m", "http.server", "--bind", "127.0.0.1", str(port), "--directory", "/var/empty",
        user=STRANGER, group=STRANGER, extra_groups=[], stderr=-3, cwd="/",
    )  # fmt: skip
    try:
        await until(lambda: f":{port:04X} " in Path("/proc/self/net/tcp").read_text())
        running = await stage.sidecar(
            *("--boundary", "guard", "--user", str(APP_USER), "--app-port", f"http={port}"), app=None
        )
        assert await running.ended() != 0
        assert "VST7203" in running.text
    finally:
        other.kill()
        await other.wait()


async def test_without_the_power_the_boundaries_say_what_they_need(stage: Stage) -> None:
    for boundary in ("guard", "netns"):
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--bounding-set", "-net_admin,-sys_admin", "--inh-caps", "-net_admin,-sys_admin",
            "sh", "-c",
            'exec "$@"', "sh", sys.executable, "-m", "vestibule", "sidecar", "--service", "payments",
            "--agent-socket", str(stage.agent.path), "--run-dir", str(stage.run), "--boundary", boundary,
            "--", "true",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 4
        assert b"VST7240" in output, output.decode()


async def test_netns_the_app_is_entered_by_the_sidecars_door_only(stage: Stage) -> None:
    running, instance = await started(stage, "--boundary", "netns", "--user", str(APP_USER))
    inside = role(stage.agent, "app")
    host, _, _ = instance.ingress["http"].rpartition(":")
    app_port = instance.apps["http"].rpartition(":")[2]

    assert await answered(STRANGER, instance.ingress["http"])
    assert not await answered(STRANGER, f"{host}:{app_port}", XFCC)
    assert not await answered(STRANGER, instance.apps["http"], XFCC), "another loopback"
    assert not await answered(STRANGER, instance.egress)
    # Who gets into the namespace all the same, as a tool of the operator's may, is held to the guard's rules.
    assert await answered(APP_USER, instance.egress, inside=inside)
    assert not await answered(STRANGER, instance.egress, inside=inside)
    assert not await answered(STRANGER, instance.apps["http"], XFCC, inside=inside)

    os.kill(running.pid, signal.SIGKILL)
    await running.ended()
    await until(lambda: "vst" not in Path("/proc/self/net/dev").read_text())


async def test_intercepted_an_unmodified_app_calls_by_name_and_is_called_through_the_door(
    stage: Stage,
) -> None:
    _, instance = await started(
        stage, "--boundary", "netns", "--user", str(APP_USER), "--proxy-user", str(ENVOY_USER),
        "--intercept", "--intercept-port", "80",
    )  # fmt: skip
    app = role(stage.agent, "app")
    hosts = Path(f"/proc/{app}/root/etc/hosts").read_text()
    names = {name: line.split()[0] for line in hosts.splitlines() for name in line.split()[1:]}
    assert {"ledger", "ledger.shop", "http.bank", "bank", "localhost"} <= names.keys()
    assert names["ledger"] not in Path("/etc/hosts").read_text()

    async def called(address: str) -> bytes:
        return await asyncio.to_thread(partial(asks, APP_USER, address, namespace_of=app))

    assert b"out ledger" in await called(f"{names['ledger']}:80")
    assert b"out ledger" in await called(f"{names['ledger']}:8443")
    assert b"out bank" in await called(f"{names['bank']}:5432")
    # Any machine's port 80: the way out goes by the name in the request.
    host, _, _ = instance.ingress["http"].rpartition(":")
    outside = host.rpartition(".")[0] + "." + str(int(host.rpartition(".")[2]) - 1)
    assert (await called(f"{outside}:80")).startswith(b"HTTP/1.1 200")
    # Others' names lead nowhere for those who are not the app.
    assert not await answered(STRANGER, f"{names['ledger']}:80", inside=app)
    # What comes to the app's own port from outside meets the door.
    app_port = instance.apps["http"].rpartition(":")[2]
    answer = await asyncio.to_thread(asks, STRANGER, f"{host}:{app_port}")
    assert b"server: envoy" in answer.lower()


async def test_unix_the_sockets_belong_to_the_apps_user(stage: Stage) -> None:
    _, instance = await started(stage, "--boundary", "unix", "--user", str(APP_USER))
    assert await answered(APP_USER, instance.egress)
    assert await answered(APP_USER, instance.apps["http"])
    assert not await answered(STRANGER, instance.egress)
    assert not await answered(STRANGER, instance.apps["http"], XFCC)
