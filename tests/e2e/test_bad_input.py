"""What goes wrong in front of the door: each mistake and each failure as a user sees it, and that nobody else does.

Every test sets one thing upon a running server and agent, through a command or a socket.  It sees a clear error with
its code, its advice and the documented exit code; that nothing is lost; that a client whose stream was open before
goes on getting what is new on it; and that no secret was shown anywhere.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from tests.component.server_lab import Agent
from tests.e2e import hostile
from tests.e2e.bad_input_lab import (
    DOMAIN,
    PYTHON,
    Platform,
    disk_full_at,
    platform_in_a_short_place,
    small_server,
)
from tests.e2e.bad_input_mesh import FORGED_LOG, FORGED_NODE, Mesh
from tests.e2e.front_door import (
    FINDINGS,
    FINE,
    REFUSED,
    UNREACHABLE,
    USAGE,
    at_once,
    until,
    vestibule,
)

from vestibule.audit import verify
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_pem
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustDomain

LONG: Final = "x" * 107
NOBODY: Final = f"{DOMAIN}/spire/agent/join_token/nobody"
SERVER: Final = "server run --trust-domain example.org --bind 127.0.0.1:0 --health off"


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    with platform_in_a_short_place() as made:
        yield made


@pytest.fixture
def platform(running: Platform) -> Iterator[Platform]:
    """The shared processes.  Nothing that a test makes them say or write holds a secret."""
    running.revive()
    yield running
    running.check_for_secrets()


@pytest.fixture(scope="module")
def running_mesh(running: Platform) -> Iterator[Mesh]:
    mesh = Mesh(running)
    mesh.start()
    yield mesh
    mesh.end()


@pytest.fixture
def mesh(running_mesh: Mesh, platform: Platform) -> Mesh:
    """The shared processes with two services, of which web calls orders."""
    return running_mesh


# ------------------------------------------------------------------------------------------------ joining


def test_a_join_token_works_for_one_agent_however_many_come_with_it(platform: Platform) -> None:
    with platform.undisturbed():
        token = platform.token()
        twins = [platform.another_agent(token) for _ in range(2)]
        until(lambda: sum(each.runs for each in twins) == 1, lambda: twins[0].said + twins[1].said)
        [winner], [loser] = ([each for each in twins if each.runs is up] for up in (True, False))
        assert winner.ready()["spiffe_id"].startswith(f"{DOMAIN}/spire/agent/join_token/")
        platform.spent(token)
        loser.ended().refused("VST8021", USAGE, "used before")
        winner.stop()


def test_a_wrong_token_and_one_that_comes_too_late_are_refused_and_repeated_nowhere(
    platform: Platform,
) -> None:
    with platform.undisturbed():
        late = platform.token("--ttl", "1s")
        spent = time.monotonic() + 1.5
        wrong = platform.directory / "wrong-token"
        wrong.touch(mode=0o600)
        wrong.write_text("Zm9yZ290dGVuLXRva2Vu\n")
        platform.secrets.append(wrong.read_bytes().strip())
        platform.another_agent(wrong).ended().refused("VST8020", USAGE, "unknown")
        time.sleep(max(0.0, spent - time.monotonic()))  # until the token's own second is over, and no longer
        platform.another_agent(late).ended().refused("VST8022", USAGE, "expired")
        wrong.chmod(0o644)
        platform.another_agent(wrong).ended().refused("VST2103", REFUSED, str(wrong), "0644")


def test_an_agent_is_told_that_the_server_is_another_trust_domains(platform: Platform) -> None:
    with platform.undisturbed():
        token = platform.token()
        lost = platform.another_agent(token, "lost", "--insecure-bootstrap", trust_domain="other.org")
        lost.ended().refused("VST2333", REFUSED, "'example.org'", "'other.org'")


# ----------------------------------------------------------------------------------------- registration


def test_an_entry_with_a_mistake_is_refused_and_nothing_is_kept(platform: Platform) -> None:
    mistakes = {
        "unknown parent": (f"--spiffe-id {DOMAIN}/a --parent-id {NOBODY}", "VST1301", NOBODY),
        "empty segment": (f"--spiffe-id {DOMAIN}/a//b --node", "VST1400", "empty path segment"),
        "no scheme": ("--spiffe-id web --node", "VST1400", "'web'"),
        "foreign": ("--spiffe-id spiffe://other.org/a --node", "VST1204", "other.org"),
        "reserved": (f"--spiffe-id {DOMAIN}/spire/server --node", "VST1205", "/spire/"),
        "no unit": (f"--spiffe-id {DOMAIN}/a --node --x509-svid-ttl 60", "VST9100", "'60'"),
        "no parent": (f"--spiffe-id {DOMAIN}/a", "VST9100", "--parent-id"),
        "no ID": ("--node", "VST9100", "--spiffe-id"),
    }
    create = "entry create --selector unix:uid:1"
    with platform.undisturbed():
        before = platform.entries()
        commands = {
            name: (f"{create} {words}", *platform.operator) for name, (words, _, _) in mistakes.items()
        }
        for name, ended in at_once(**commands).items():
            _, code, said = mistakes[name]
            ended.refused(code, USAGE, said)
            assert ended.err == ""
        assert platform.entries() == before


def test_a_mistake_is_told_to_people_on_standard_error(platform: Platform) -> None:
    words = f"entry create --spiffe-id {DOMAIN}/a/ --node --selector unix:uid:1"
    ended = vestibule(words, *platform.operator, text=True)
    assert (ended.code, ended.out) == (USAGE, "")
    error, advice = ended.err.splitlines()
    assert error.startswith("✗ VST1400 ")
    assert advice.startswith("  fix: Write spiffe://")


# -------------------------------------------------------------------------------------------------- CSRs


def test_a_csr_that_lies_is_refused_and_costs_neither_the_token_nor_other_requests(
    platform: Platform,
) -> None:
    with platform.undisturbed():
        asyncio.run(_lying_csrs(platform))
    records = (platform.directory / "server" / "audit.jsonl").read_text()
    for code in ("VST1001", "VST1200"):
        assert f'"outcome":"{code}"' in records


async def _lying_csrs(platform: Platform) -> None:
    # An agent by hand, over TLS on the server's port.
    lab = SimpleNamespace(ready=SimpleNamespace(grpc=f"127.0.0.1:{platform.port}"))
    bundle = from_pem(TrustDomain.parse("example.org"), platform.bundle.read_bytes())
    agent = Agent(cast(Any, lab), None, bundle)
    try:
        token = await asyncio.to_thread(platform.token)
        sound = make_csr(generate_key())
        forged = sound[:-1] + bytes([sound[-1] ^ 1])
        with pytest.raises(VestibuleError, match="VST1001") as refused:
            await agent.attest(token.read_text().strip(), forged)
        assert "private key" in refused.value.advice
        # The token is still good.
        agent.use(await agent.attest(token.read_text().strip()))
        platform.spent(token)
        entry = await asyncio.to_thread(platform.create, "/csr", "unix:uid:1", parent=str(agent.id))
        foreign = make_csr(generate_key(), SpiffeId.parse(f"{DOMAIN}/somebody/else"))
        for csr, words in (
            (forged, "VST1001"),
            (foreign, f"VST1200 the CSR names {DOMAIN}/somebody/else"),
            (b"not a CSR", "VST1000"),
        ):
            result = await agent.new_svid(entry, csr)
            assert result.status.code != 0
            assert result.status.message.startswith(words)
            assert not result.HasField("svid")
        assert (await agent.new_svid(entry, sound)).status.code == 0
        await asyncio.to_thread(platform.delete, entry)
    finally:
        agent.channel.close()


# ----------------------------------------------------------------------------------------- places in use


def test_places_in_use_are_named_and_nothing_is_begun(platform: Platform) -> None:
    new, used = platform.directory / "second", platform.directory / "server"
    own, taken = platform.run / "second.sock", f"127.0.0.1:{platform.port}"
    with platform.undisturbed():
        ended = at_once(
            port=(SERVER, "--data-dir", new, "--socket", own, "--bind", taken),
            socket=(SERVER, "--data-dir", new, "--socket", platform.server_socket),
            data=(SERVER, "--data-dir", used, "--socket", platform.run / "third.sock"),
        )
        assert "ss -ltnp" in ended["port"].refused("VST2320", REFUSED, str(platform.port))["advice"]
        ended["socket"].refused("VST2311", REFUSED, str(platform.server_socket))
        ended["data"].refused("VST9111", REFUSED, str(used))
        assert not new.exists()


def test_an_agent_whose_places_are_in_use_keeps_its_token(platform: Platform) -> None:
    used, taken = platform.directory / "agent", f"127.0.0.1:{platform.port}"
    with platform.undisturbed():
        token = platform.token()
        port = platform.another_agent(token, "", "--health", taken)
        sock = platform.another_agent(token, "", "--socket", platform.agent_socket)
        data = platform.another_agent(token, "", "--data-dir", used)
        port.ended().refused("VST2320", REFUSED, str(platform.port))
        sock.ended().refused("VST2311", REFUSED, str(platform.agent_socket))
        data.ended().refused("VST2108", REFUSED, str(used))
        _still_good(platform, token)


def _still_good(platform: Platform, token: Path) -> None:
    """The token was not spent on an agent that could not have served anybody."""
    agent = platform.another_agent(token)
    agent.ready()
    platform.spent(token)
    agent.stop()


def test_a_socket_path_over_107_bytes_is_explained(platform: Platform) -> None:
    here, long = platform.directory, platform.directory / LONG
    sidecar = "sidecar --service web --agent-socket"
    with platform.undisturbed():
        for ended in at_once(
            server=(SERVER, "--data-dir", here / "long", "--socket", long / "server.sock"),
            agent=("agent run --trust-domain x --server x:1 --data-dir", here / "long", "--socket", long),
            sidecars_agent=(sidecar, long),
            sidecars_own=(sidecar, platform.agent_socket, "--run-dir", long),
            workload=("svid fetch --agent-socket", long),
            operator=("entry show --server-socket", long),
        ).values():
            assert "short path" in ended.refused("VST2310", REFUSED, "107", LONG)["advice"]
        assert not (here / "long").exists()


# -------------------------------------------------------------------------------------------------- Envoy


def test_an_envoy_that_is_missing_or_old_is_named_and_the_app_is_not_started(platform: Platform) -> None:
    old = platform.directory / "old-envoy"
    old.write_text("#!/bin/sh\necho 'envoy  version: 0123456789abcdef/1.39.2/Clean/RELEASE/BoringSSL'\n")
    old.chmod(0o755)
    text = platform.directory / "no-envoy"
    text.write_text("this is no program\n")
    started = platform.directory / "started"
    sidecar = ("sidecar --service web --agent-socket", platform.agent_socket, "--run-dir", platform.run)
    app = ("--", "touch", started)
    with platform.undisturbed():
        ended = at_once(
            missing=(*sidecar, "--envoy", platform.directory / "nowhere", *app),
            old=(*sidecar, "--envoy", old, *app),
            text=(*sidecar, "--envoy", text, *app),
            other=(*sidecar, "--envoy", "/bin/true", *app),
        )
        ended["missing"].refused("VST7100", REFUSED, "nowhere")
        ended["old"].refused("VST7101", REFUSED, "1.39.2")
        ended["text"].refused("VST7102", REFUSED, "no-envoy")
        ended["other"].refused("VST7102", REFUSED, "not an Envoy")
        assert not started.exists()


# ---------------------------------------------------------------------------------------- malformed frames


@pytest.mark.parametrize("noise", hostile.NOISE.values(), ids=hostile.NOISE)
def test_noise_costs_the_noisy_connection_and_no_other(platform: Platform, noise: bytes) -> None:
    with platform.undisturbed():
        hostile.make_noise(hostile.unix(platform.agent_socket), noise)
        hostile.make_noise(hostile.tcp(platform.port), noise)
        hostile.make_noise(hostile.tls(platform.port), noise)


@pytest.mark.parametrize(("body", "code"), hostile.BAD_MESSAGES.values(), ids=hostile.BAD_MESSAGES)
def test_a_malformed_message_is_answered_with_a_code_and_advice(
    platform: Platform, body: bytes, code: str
) -> None:
    sds = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
    with platform.undisturbed():
        for trailers in (
            hostile.call(hostile.unix(platform.agent_socket), sds, body),
            hostile.call(hostile.unix(platform.agent_socket), "/vestibule.node.v1.Sidecar/Attach", body),
            hostile.call(hostile.tls(platform.port), "/spire.api.server.agent.v1.Agent/AttestAgent", body),
        ):
            assert trailers["vestibule-error-code"] == code
            assert trailers["grpc-message"].startswith(code)
            assert trailers["vestibule-error-advice"]


# --------------------------------------------------------------------------------- who is not who he says


def test_an_sds_client_that_no_entry_matches_is_told_what_it_is(platform: Platform) -> None:
    with platform.undisturbed():
        log = hostile.envoy(hostile.asks_sds(platform.agent_socket), platform.directory, "VST2105")
        assert "no registration entry matches" in log
        assert f"unix:path:{hostile.ENVOY}" in log
        # Those who look after the agent see it, too.
        platform.agent.says("VST2105 no identity issued")
        assert f"unix:path:{hostile.ENVOY}" in platform.agent.err


def test_a_workload_that_no_entry_matches_is_told_what_to_register(platform: Platform) -> None:
    with platform.undisturbed():
        # An agent without entries has no identity for anybody.
        token = platform.token()
        agent = platform.another_agent(token, "lonely")
        agent.ready()
        platform.spent(token)
        ended = vestibule("svid fetch --agent-socket", platform.run / "lonely.sock")
        error = ended.refused("VST2105", REFUSED, PYTHON, f"unix:uid:{os.geteuid()}")
        assert "vestibule entry create" in error["advice"]
        agent.stop()


def test_a_forged_node_id_gets_a_stranger_nothing(mesh: Mesh) -> None:
    platform, instance = mesh.platform, mesh.orders.ready()["instance"]
    with platform.undisturbed(), mesh.calls_go_on():
        log = hostile.envoy(hostile.asks_ads(platform.agent_socket, instance), platform.directory, "VST2105")
        # It is taken for a client that comes by itself, who gets what is its own, and has no identity.
        assert "vestibule why --pid" in log
        platform.agent.says("VST2105")
        assert mesh.proxies()["orders"]["instance"] == instance


def test_a_forged_node_id_of_a_known_proxy_is_overwritten_with_what_was_attested(mesh: Mesh) -> None:
    platform, victim = mesh.platform, mesh.orders.ready()["instance"]
    seen = platform.directory / "forged.json"
    forged = mesh.script("forged-node", FORGED_NODE, instance=victim, seen=seen, envoy=hostile.ENVOY)
    with platform.undisturbed(), mesh.calls_go_on():
        thief = mesh.sidecar("thief", "--envoy", forged)
        ready = thief.ready()
        assert f'"id": "{victim}", "cluster": "orders"' in seen.read_text()
        proxies = until(lambda: _synced(mesh, "thief"), lambda: str(mesh.proxies()))
        assert proxies["thief"]["instance"] == ready["instance"]
        assert proxies["thief"]["identity"] == f"{DOMAIN}/ns/prod/sa/thief"
        assert proxies["orders"]["instance"] == victim
        assert proxies["orders"]["synced"]
        thief.stop()


def _synced(mesh: Mesh, service: str) -> dict[str, dict[str, Any]] | None:
    proxies = mesh.proxies()
    return proxies if service in proxies and proxies[service]["synced"] else None


def test_forged_access_records_say_who_sent_them(mesh: Mesh) -> None:
    platform, victim = mesh.platform, mesh.orders.ready()["instance"]
    values = {"instance": victim, "socket": platform.agent_socket, "orders": f"{DOMAIN}/ns/prod/sa/orders"}
    with platform.undisturbed(), mesh.calls_go_on():
        # A stranger's records are not taken.
        send = mesh.script("stranger", FORGED_LOG, **values)
        refused = hostile.run_once(send)
        assert "VST2133" in refused
        assert not any("forged" in each["path"] for each in mesh.access_log)
        # Those of a sidecar's own Envoy are, as its own.
        thief = mesh.sidecar("thief", "--envoy", send)
        records = until(lambda: [r for r in mesh.access_log if "forged" in r["path"]], lambda: thief.said)
        assert [each["reporter_service"] for each in records] == ["thief"]
        assert records[0]["reporter_spiffe_id"] == f"{DOMAIN}/ns/prod/sa/thief"
        assert records[0]["source_spiffe_id"] == f"{DOMAIN}/ns/prod/sa/thief"
        assert records[0]["reporter_instance"] != victim
        thief.kill()
        until(lambda: not hostile.processes_running(send), "the forged Envoy ends with its sidecar")


# ---------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_under_the_audit_log_or_the_store_refuses_changes_and_loses_nothing(
    platform: Platform,
) -> None:
    data = platform.directory / "server"
    create = f"entry create --node --selector unix:uid:1 --spiffe-id {DOMAIN}/disk/"
    with platform.undisturbed():
        before = platform.entries()
        audit, log = (data / "audit.jsonl").stat().st_size, (data / "server.db-wal").stat().st_size
        assert audit < log
        for room, codes in ((audit, {"VST8100"}), (max(audit + 4096, log), {"VST8000", "VST8001"})):
            with disk_full_at(room, platform.server):
                ended = vestibule(create + "a", *platform.operator)
                error = ended.envelope["errors"][0]
                assert error["code"] in codes
                assert ended.code in (UNREACHABLE, REFUSED)
                assert "space" in error["advice"]
                # What there is can be read.
                assert platform.entries() == before
        # With room again nothing needs to be done.
        entry = vestibule(create + "a", *platform.operator).envelope["data"]["id"]
        platform.delete(entry)
        assert platform.entries() == before
    assert verify(data / "audit.jsonl").ok


def test_a_full_disk_under_the_agents_cache_stops_no_service_and_is_found_by_check(
    platform: Platform,
) -> None:
    sockets = ("--admin-socket", platform.admin_socket, "--agent-socket", platform.agent_socket)
    check = ("check", *platform.operator, *sockets)
    sealed = platform.directory / "agent" / "holdings.sealed"
    with platform.undisturbed():
        with disk_full_at(512, platform.agent):
            entry = platform.create("/unkept", PYTHON)
            until(lambda: "/unkept" in platform.held(), lambda: platform.bystander.said)
            platform.agent.says("VST2107")
            old = sealed.read_bytes()
            ended = vestibule(*check)
            findings = [each for each in ended.envelope["data"]["checks"] if each["result"] == "failed"]
            assert ended.code == FINDINGS
            # The access log is on the same disk: a record that came meanwhile is found missing as well.
            messages = [each["message"] for each in findings]
            assert any("VST2107" in each for each in messages), messages
            assert all("VST2107" in each or "VST8201" in each for each in messages), messages
            assert all("space" in each["hint"] for each in findings)
        until(lambda: sealed.read_bytes() != old, "the cache is written again")
        platform.agent.says("cache is written again")
        platform.delete(entry)
        assert vestibule(*check).code == FINE


def test_a_full_disk_under_the_access_log_stops_no_call_and_loses_no_record(mesh: Mesh) -> None:
    platform = mesh.platform
    log = platform.directory / "agent" / "access.jsonl"
    with platform.undisturbed():
        mesh.call("/full/before")
        until(log.exists, "the first record")
        with disk_full_at(log.stat().st_size + 300, platform.agent):
            for number in range(5):
                assert mesh.call(f"/full/{number}").status == 200
            platform.agent.says("VST8201")
            assert log.read_text().endswith("\n"), "no half line"
        platform.agent.says("access log is written again; 0 records were dropped")
        wanted = {f"/full/{number}" for number in range(5)}
        until(
            lambda: {r["path"] for r in mesh.access_log if r["reporter_service"] == "orders"} >= wanted,
            "all records",
        )


def test_a_disk_without_space_is_told_from_other_trouble_with_it(platform: Platform) -> None:
    with platform.undisturbed(), small_server(platform) as small:
        create = f"entry create --node --selector unix:uid:1 --spiffe-id {DOMAIN}/full/"
        kept = {vestibule(f"{create}first", *small.operator).envelope["data"]["id"]}
        with small.full():
            # Blocks that are begun have room yet: it goes on until store or audit log takes no more.
            numbers = itertools.count()
            while (ended := vestibule(f"{create}{next(numbers)}", *small.operator)).code == FINE:
                kept.add(ended.envelope["data"]["id"])
            error = ended.envelope["errors"][0]
            assert error["code"] in ("VST8001", "VST8100") if small.is_a_disk else ("VST8000", "VST8001")
            assert "space" in error["advice"]
            shown = vestibule("entry show", *small.operator).envelope["data"]
            assert {each["id"] for each in shown} == kept
        kept.add(vestibule(f"{create}last", *small.operator).envelope["data"]["id"])
        assert vestibule("entry count", *small.operator).envelope["data"]["count"] == len(kept)
        assert verify(small.data / "audit.jsonl").ok
        assert "Traceback" not in small.program.err


# ---------------------------------------------------------------------------------------------- killed parts


def test_a_killed_app_is_started_again_and_its_callers_are_told_meanwhile(mesh: Mesh) -> None:
    platform, hold = mesh.platform, mesh.hold("orders")
    with platform.undisturbed():
        hold.touch()
        before = mesh.app_of(mesh.orders)
        os.kill(before, signal.SIGKILL)
        try:
            mesh.orders.says("app ended (killed by SIGKILL)")
            answer = until(lambda: (a := mesh.call()).status == 503 and a, lambda: str(mesh.call()))
            # Unreachable for a moment, then known to be away.
            assert answer.document["error"] in ("VST3010", "VST3011", "VST3013")
            assert answer.document["request_id"]
            until(lambda: mesh.call().document["error"] == "VST3011", lambda: str(mesh.call()))
        finally:
            hold.unlink()
        until(lambda: mesh.call().status == 200, lambda: f"{mesh.call()} {mesh.orders.said}")
        assert mesh.call().document["pid"] != before
        assert "orders" in mesh.call().document["caller"]


def test_a_killed_envoy_is_started_again_with_the_same_identity_and_policy(mesh: Mesh) -> None:
    platform = mesh.platform
    with platform.undisturbed():
        before, proxy = mesh.envoy_of(mesh.orders), mesh.proxies()["orders"]
        os.kill(before, signal.SIGKILL)
        until(lambda: mesh.call().status == 200, lambda: f"{mesh.call()} {mesh.orders.said}")
        mesh.orders.says("envoy ended (killed by SIGKILL)")
        assert mesh.envoy_of(mesh.orders) != before
        proxies = until(lambda: _synced(mesh, "orders"), lambda: str(mesh.proxies()))
        for fact in ("identity", "instance", "ingress"):
            assert proxies["orders"][fact] == proxy[fact]


def test_a_killed_agent_is_missed_by_nobody_who_had_what_he_needs(mesh: Mesh) -> None:
    platform = mesh.platform
    with mesh.calls_go_on():
        name, documents = platform.agent_id, len(platform.bystander.documents)
        platform.agent.kill()
        # Who had a stream open is told; so is who comes now.
        platform.bystander.ended_with("VST2300", UNREACHABLE)
        fetch = ("svid fetch --agent-socket", platform.agent_socket)
        vestibule(*fetch).refused("VST2300", UNREACHABLE, str(platform.agent_socket))
        ended = vestibule("check", *platform.operator, "--admin-socket", platform.admin_socket)
        assert ended.code == UNREACHABLE
        # Without a token: it is the same agent, with all that it had.
        platform.start_agent()
        assert platform.agent_id == name
        held = {each["spiffe_id"] for each in vestibule(*fetch).envelope["data"]["svids"]}
        assert f"{DOMAIN}/here" in held
        for sidecar in (mesh.orders, mesh.web):
            sidecar.says("attached to the agent again")
        platform.start_bystander()
        assert documents
        until(lambda: _synced(mesh, "orders"), lambda: str(mesh.proxies()))


def test_a_killed_server_is_missed_by_nobody_who_had_what_he_needs(mesh: Mesh) -> None:
    platform = mesh.platform
    before = platform.entries()
    with mesh.calls_go_on():
        platform.server.kill()
        ended = vestibule("entry show", *platform.operator)
        ended.refused("VST2300", UNREACHABLE, str(platform.server_socket))
        platform.agent.says("not following the server: VST2300")
        ended = vestibule("svid fetch --agent-socket", platform.agent_socket)
        assert ended.code == FINE
        assert platform.bystander.runs
        platform.start_server()
        assert platform.entries() == before
    # The agent is back in touch by itself.
    with platform.undisturbed(reconnected=True):
        until(lambda: _synced(mesh, "orders"), lambda: str(mesh.proxies()))


# ------------------------------------------------------------------------------------------------ orderly end


def test_streams_end_unavailable_when_the_agent_stops_and_when_the_server_does(platform: Platform) -> None:
    followed = platform.agent.err.count("following the server's changes")
    assert platform.server.stop().code == FINE
    platform.agent.says("not following the server: VST9001")
    # Those who have what they need notice nothing.
    assert platform.bystander.runs
    platform.start_server()
    until(
        lambda: platform.agent.err.count("following the server's changes") > followed,
        lambda: platform.agent.said,
    )
    with hostile.open_stream(platform.agent_socket) as stream:
        assert platform.agent.stop().code == FINE
        trailers = stream.trailers()
    assert (trailers["grpc-status"], trailers["vestibule-error-code"]) == ("14", "VST9001")
    assert not platform.agent_socket.exists()
    platform.bystander.ended_with("VST9001", UNREACHABLE)
    platform.start_agent()
    platform.start_bystander()


def test_nothing_was_lost_in_all_this(platform: Platform) -> None:
    report = verify(platform.directory / "server" / "audit.jsonl")
    assert report.ok, report
    assert f"{DOMAIN}/here" in {
        each["spiffe_id"] for each in vestibule("entry show", *platform.operator).envelope["data"]
    }
