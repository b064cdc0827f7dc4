"""``vestibule why`` beside a real agent and a real server; and entries with templates through both."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.component.test_agent import ME, TD, Field, Running, a_world, anything, wire_id

from vestibule.doors import entries_api
from vestibule.errors import VestibuleError
from vestibule.pki.jwt import read_jwt_svid
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@asynccontextmanager
async def a_process() -> AsyncIterator[int]:
    """A process that does nothing, to be asked about."""
    process = await asyncio.create_subprocess_exec("sleep", "60", stdin=DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def command(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vestibule", *words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def why(
    world: Field, agent: Running | None, *words: str, server: bool = True
) -> tuple[int, dict[str, Any]]:
    where = ["--admin-socket", str(agent.settings.admin_socket_path)] if agent else []
    where += ["--server-socket", str(world.server.socket if server else world.directory / "none.sock")]
    code, out, error = await command("why", *words, "-o", "json", *where)
    assert out, error
    document = json.loads(out)
    assert document["schema"] == "vestibule.why/v1"
    return code, document["data"]


async def register(world: Field, parent: SpiffeId, path: str, *selectors: str, **extras: Any) -> Any:
    prefix = path.split("/{")[0]
    entry = types_pb2.Entry(
        spiffe_id=wire_id(SpiffeId.of(TD, prefix)),
        parent_id=wire_id(parent),
        selectors=[
            types_pb2.Selector(type=s.partition(":")[0], value=s.partition(":")[2]) for s in selectors
        ],
    )
    if "{" in path:
        extras["path_template"] = path
    wanted = entries_pb2.RegisteredEntry(entry=entry, extras=entries_pb2.EntryExtras(**extras))
    request = entries_pb2.CreateRegisteredRequest(entries=[wanted])
    [result] = (await world.server.call(entries_api.SERVICE, "Create", request)).results
    assert result.status.code == 0, result.status.message
    return result.entry.entry.id


# ------------------------------------------------------------------------------------------------ why


async def test_a_process_with_an_identity_is_told_of_with_its_certificate(world: Field) -> None:
    agent = await world.agent()
    entry = await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with a_process() as pid:
        code, found = await why(world, agent, "--pid", str(pid))
    assert (code, found["issued"]) == (0, True)
    assert found["verdict"] == f"process {pid} is spiffe://example.org/web"
    [candidate] = found["process"]["candidates"]
    assert (candidate["entry"]["id"], candidate["is_default"]) == (entry, True)
    assert candidate["svid"]["served"]
    assert candidate["svid"]["renew_at"] < candidate["svid"]["not_after"]
    assert candidate["svid"]["authority_id"] == found["server"]["authority"]["id"]


async def test_the_nearest_miss_comes_with_the_selector_that_differs(world: Field) -> None:
    agent = await world.agent()
    near = await world.server.entry(agent.id, "/near", ME, "unix:gid:4242424")
    await world.server.entry(agent.id, "/far", "k8s:ns:prod", "unix:gid:4242424")
    async with a_process() as pid, asyncio.timeout(60):
        while True:
            code, found = await why(world, agent, "--pid", str(pid))
            if len(found["process"]["candidates"]) == 2:
                break
        words = ("why", "--pid", str(pid), "--admin-socket", str(agent.settings.admin_socket_path))
        _, text, _ = await command(*words, "--server-socket", str(world.server.socket))
    assert (code, found["issued"]) == (1, False)
    first, second = found["process"]["candidates"]
    assert (first["entry"]["id"], [each["expected"] for each in first["missing"]]) == (
        near,
        ["unix:gid:4242424"],
    )
    assert first["missing"][0]["found"] == [f"unix:gid:{os.getegid()}"]
    assert [each["expected"] for each in second["missing"]] == ["k8s:ns:prod", "unix:gid:4242424"]
    assert "wants unix:gid:4242424; the process has unix:gid:" in text
    assert f"vestibule entry update {near} --selector" in text
    assert text.index("/near") < text.index("/far")


async def test_an_entry_under_another_parent_is_found_on_the_server_with_where_it_breaks(
    world: Field,
) -> None:
    agent = await world.agent()
    other = SpiffeId.of(TD, "/spire/agent/join_token/nobody")
    await world.server.entry(SpiffeId.of(TD, "/node/typo"), "/lost", ME)
    await world.server.entry(other, "/elsewhere", ME)
    alias = await world.server.entry(SpiffeId.of(TD, "/spire/server"), "/node/a", "join_token:zone:a")
    await world.server.entry(SpiffeId.of(TD, "/node/a"), "/aliased", ME)
    async with a_process() as pid:
        code, found = await why(world, agent, "--pid", str(pid))
    assert code == 1
    chains = {
        each["entry"]["spiffe_id"].rpartition("/")[2]: each["chain"] for each in found["server"]["entries"]
    }
    assert chains["lost"][-1]["what"].startswith("is nobody's")
    assert chains["elsewhere"][-1]["what"] == "is the ID of an agent that is not attested"
    assert chains["aliased"][-1]["entry_id"] == alias
    assert "lacks join_token:zone:a" in chains["aliased"][-1]["what"]
    assert all(chain[-1]["broken"] for chain in chains.values())
    assert any("--parent-id" in step for step in found["next"])


async def test_whoever_cannot_be_asked_is_named_with_what_to_ask_there(world: Field) -> None:
    agent = await world.agent()
    async with a_process() as pid:
        code, found = await why(world, agent, "--pid", str(pid), server=False)
    assert code == 1
    assert set(found["not_asked"]) == {"server"}
    assert any(f"vestibule why --agent {agent.id}" in step for step in found["next"])
    code, found = await why(world, None, "--spiffe-id", "spiffe://example.org/x", server=False)
    assert (code, found["verdict"]) == (3, "nobody could be asked")
    code, _, error = await command("why")
    assert (code, "VST9100" in error) == (2, True)


async def test_there_is_no_explaining_a_process_that_is_not_there(world: Field) -> None:
    agent = await world.agent()
    where = ("--admin-socket", str(agent.settings.admin_socket_path))
    code, _, error = await command("why", "--pid", "4194303", *where)
    assert (code, "VST2312" in error) == (4, True)


async def test_a_spiffe_id_is_told_of_with_its_agents(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    code, found = await why(world, None, "--spiffe-id", "spiffe://example.org/web")
    assert code == 0
    [node] = found["server"]["agents"]
    assert (node["spiffe_id"], node["connected"]) == (str(agent.id), True)
    assert node["issued_until"] is not None
    code, found = await why(world, None, "--spiffe-id", "spiffe://example.org/wbe")
    assert code == 1
    assert found["server"]["nearest_spiffe_id"] == "spiffe://example.org/web"
    code, found = await why(
        world, None, "--spiffe-id", "spiffe://example.org/web", "--selector", "unix:uid:99999"
    )
    assert code == 1
    assert found["server"]["entries"][0]["missing"] == [{"expected": ME, "found": ["unix:uid:99999"]}]
    await world.server.agent_call("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(agent.id)))
    code, found = await why(world, None, "--spiffe-id", "spiffe://example.org/web")
    assert (code, found["server"]["entries"][0]["chain"][-1]["what"]) == (1, "is a banned agent")
    world.agents.remove(agent)
    with pytest.raises(VestibuleError):
        await agent.task


async def test_a_workload_is_told_the_command_and_nothing_of_others(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/secret", "unix:uid:4242424", "unix:path:/opt/secret")
    with pytest.raises(VestibuleError) as refused:
        await agent.fetch()
    assert f"vestibule why --pid {os.getpid()}" in refused.value.message
    assert "secret" not in refused.value.message
    assert "4242424" not in refused.value.message


# ------------------------------------------------------------------------------------------ templates


async def test_a_workload_gets_what_its_template_says(world: Field) -> None:
    agent = await world.agent()
    template = await register(
        world,
        agent.id,
        "/people/{unix:user}",
        ME,
        jwt_claims='{"org_user": "{unix:user}", "tier": 3}',
        dns_templates=[],
    )
    context = await agent.until(anything)
    assert [str(each.spiffe_id) for each in context.svids] == [f"spiffe://example.org/people/{USER}"]
    async with agent.api() as api:
        [token] = await api.fetch_jwt_svids(["db"])
    claims = read_jwt_svid(token.token).claims
    assert (claims["org_user"], claims["tier"], claims["sub"]) == (USER, 3, str(context.svids[0].spiffe_id))
    listed = await world.server.call(
        entries_api.SERVICE,
        "List",
        entries_pb2.ListRegisteredRequest(filter=entries_pb2.RegisteredFilter(template_id=template)),
    )
    [made] = listed.entries
    assert {f"{each.type}:{each.value}" for each in made.entry.selectors} == {ME, f"unix:user:{USER}"}
    log = (world.directory / "server" / "audit.jsonl").read_text()
    assert log.count('"entry.derive"') == 1
    await world.server.delete_entry(template)
    async with agent.api() as api, asyncio.timeout(60):
        with pytest.raises(VestibuleError, match="VST2105"):
            async for _ in api.watch():
                pass


async def test_a_template_that_gives_nothing_is_explained(world: Field) -> None:
    agent = await world.agent()
    await register(world, agent.id, "/pods/{k8s:ns}", ME)
    await register(world, agent.id, "/people/{unix:user}", ME, max_identities=1)
    await world.server.entry(SpiffeId.of(TD, "/node/x"), f"/people/{USER}", "a:b")
    with pytest.raises(VestibuleError, match="VST2105"):
        await agent.fetch()
    async with a_process() as pid, asyncio.timeout(60):
        while True:
            _, found = await why(world, agent, "--pid", str(pid))
            problems = {each["path_template"]: each["problem"] for each in found["process"]["templates"]}
            if len(problems) == 2 and all(problems.values()):
                break
            with pytest.raises(VestibuleError, match="VST2105"):
                await agent.fetch()
    assert "no selector k8s:ns:" in problems["/pods/{k8s:ns}"]
    assert "VST1352" in problems["/people/{unix:user}"]


async def test_what_was_derived_outlives_restarts_of_both(world: Field) -> None:
    agent = await world.agent()
    await register(world, agent.id, "/people/{unix:user}", ME)
    before = await agent.until(anything)
    await agent.stop()
    await world.server.stop()
    again = await world.agent(await world.settings())
    assert (await again.until(anything)).svids[0].serial == before.svids[0].serial
    await world.server.start()
    async with asyncio.timeout(60):
        while not (await why(world, again, "--pid", str(os.getpid())))[1]["process"]["agent"]["connected"]:
            await asyncio.sleep(0.05)
    assert (await again.until(anything)).svids[0].spiffe_id == before.svids[0].spiffe_id


# ------------------------------------------------------------------------------- administering from elsewhere


async def test_commands_administer_over_the_port_with_the_svid_of_their_process(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/ops", ME)
    await agent.until(anything)
    environment = {
        **os.environ,
        "VESTIBULE_SERVER_ADDRESS": f"127.0.0.1:{world.server.port}",
        "VESTIBULE_AGENT_SOCKET": str(agent.settings.socket_path),
    }

    async def count(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vestibule",
            "entry",
            "count",
            *words,
            env=environment,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, error = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, (out + error).decode()

    code, told = await count()
    assert (code, "VST2323" in told) == (4, True)
    local = ("--server-socket", str(world.server.socket))
    ops = ("--spiffe-id", "spiffe://example.org/ops", "--may", "read", "--path", "/ops", "--parent", "/")
    assert (await command("admin", "grant", *ops, *local))[0] == 0
    await world.server.entry(agent.id, "/other", "no:body")
    assert await count() == (0, "1\n")
