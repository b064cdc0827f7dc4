"""JWT-SVIDs through a real agent beside a real server."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from tests.component.test_agent import ME, TD, Field, a_world, anything

from vestibule import sdk
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import HEADER, SERVICE, WorkloadApi
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.jwt import verify_jwt_svid
from vestibule.spiffe import JwtSvid, SpiffeId
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2 as wire

WEB = SpiffeId.of(TD, "/web")


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def refusal(call: Any) -> tuple[Status, str]:
    with pytest.raises(VestibuleError) as caught:
        await call
    cause = caught.value.__cause__
    assert isinstance(cause, GRPCError)
    return cause.status, caught.value.code.code


async def verified(api: WorkloadApi, svid: JwtSvid, audience: str) -> JwtSvid:
    bundles = {each.trust_domain: each for each in await api.fetch_jwt_bundles()}
    return verify_jwt_svid(svid.token, [audience], bundles.get, datetime.now(UTC))


async def test_a_workload_gets_a_token_of_each_identity_and_others_verify_it(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME, hint="in")
    await world.server.entry(agent.id, "/batch", ME)
    await agent.until(lambda context: len(context.svids) == 2)
    async with agent.api() as api:
        both = await api.fetch_jwt_svids(["db"])
        assert {svid.spiffe_id.path: svid.hint for svid in both} == {"/web": "in", "/batch": ""}
        [one] = await api.fetch_jwt_svids(["db"], WEB)
        assert one.token in {svid.token for svid in both}, "a token is used again until its half-life"
        assert (await verified(api, one, "db")).spiffe_id == WEB
        found = await api.validate_jwt_svid(one.token, "db")
        assert found.spiffe_id == WEB
        assert found.claims.keys() == {"sub", "aud", "exp", "iat", "vestibule:via"}
        assert found.claims["aud"] == ["db"]
    log = (world.directory / "server" / "audit.jsonl").read_text()
    assert log.count('"jwt-svid.issue"') == 2
    assert one.token not in log


async def test_wrong_questions_get_the_answers_of_the_standard(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    channel = unix_channel(agent.settings.socket_path)
    client, api = Client(channel, SERVICE), WorkloadApi(channel)
    [svid] = await api.fetch_jwt_svids(["db"])
    foreign = TestAuthority(TD).jwt_svid("/web", "db").token
    cases: list[tuple[str, Any, Status]] = [
        ("FetchJWTSVID", wire.JWTSVIDRequest(), Status.INVALID_ARGUMENT),
        ("FetchJWTSVID", wire.JWTSVIDRequest(audience=[""]), Status.INVALID_ARGUMENT),
        ("FetchJWTSVID", wire.JWTSVIDRequest(audience=["db"], spiffe_id="web"), Status.INVALID_ARGUMENT),
        ("FetchJWTSVID", wire.JWTSVIDRequest(audience=["db"], spiffe_id=f"{WEB}2"), Status.PERMISSION_DENIED),
        ("ValidateJWTSVID", wire.ValidateJWTSVIDRequest(svid=svid.token), Status.INVALID_ARGUMENT),
        ("ValidateJWTSVID", wire.ValidateJWTSVIDRequest(audience="db"), Status.INVALID_ARGUMENT),
        ("ValidateJWTSVID", wire.ValidateJWTSVIDRequest(audience="d", svid=svid.token), Status.INVALID_ARGUMENT),
        ("ValidateJWTSVID", wire.ValidateJWTSVIDRequest(audience="db", svid="x.y.z"), Status.INVALID_ARGUMENT),
        ("ValidateJWTSVID", wire.ValidateJWTSVIDRequest(audience="db", svid=foreign), Status.INVALID_ARGUMENT),
    ]  # fmt: skip
    for name, request, status in cases:
        assert (await refusal(client.unary(name, request, metadata=HEADER)))[0] is status, request
        assert await refusal(client.unary(name, request)) == (Status.INVALID_ARGUMENT, "VST2200")
    channel.close()


async def test_who_has_no_identity_gets_neither_tokens_nor_keys_nor_answers(world: Field) -> None:
    agent = await world.agent()
    token = TestAuthority(TD).jwt_svid("/web", "db").token
    async with agent.api() as api:
        for call in (
            api.fetch_jwt_svids(["db"]),
            api.fetch_jwt_bundles(),
            api.validate_jwt_svid(token, "db"),
        ):
            assert await refusal(call) == (Status.PERMISSION_DENIED, "VST2105")


async def test_the_bundle_stream_ends_when_the_last_identity_is_taken(world: Field) -> None:
    agent = await world.agent()
    entry = await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with agent.api() as api:
        bundles = api.watch_jwt_bundles()
        [bundle] = await anext(bundles)
        assert len(bundle.jwt_authorities) == 1
        await world.server.delete_entry(entry)
        async with asyncio.timeout(60):
            assert await refusal(anext(bundles)) == (Status.PERMISSION_DENIED, "VST2105")


async def test_tokens_are_validated_without_the_server_even_by_a_restarted_agent(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    async with agent.api() as api:
        [svid] = await api.fetch_jwt_svids(["db"])
    await world.server.stop()
    async with agent.api() as api:
        assert (await api.fetch_jwt_svids(["db"]))[0].token == svid.token
        assert await refusal(api.fetch_jwt_svids(["new"])) == (Status.UNAVAILABLE, "VST2110")
    await agent.stop()
    again = await world.agent(await world.settings())
    async with again.api() as api:
        assert (await api.validate_jwt_svid(svid.token, "db")).spiffe_id == WEB
        assert (await verified(api, svid, "db")).spiffe_id == WEB


async def test_where_the_server_issues_none_the_agent_says_so() -> None:
    async with a_world(disable_jwt_svids=True) as world:
        agent = await world.agent()
        await world.server.entry(agent.id, "/web", ME)
        await agent.until(anything)
        async with agent.api() as api:
            assert (await refusal(api.fetch_jwt_svids(["db"])))[0] is Status.UNIMPLEMENTED
            [bundle] = await api.fetch_jwt_bundles()
            assert bundle.jwt_authorities == ()


async def test_the_sdk_fetches_and_verifies(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    address = f"unix://{agent.settings.socket_path}"
    svid = await sdk.fetch_jwt_svid("db", "queue", address=address)
    assert (svid.spiffe_id, set(svid.audience)) == (WEB, {"db", "queue"})
    assert (await sdk.fetch_jwt_svid("db", spiffe_id=str(WEB), address=address)).spiffe_id == WEB
    assert (await sdk.validate_jwt_svid(svid.token, "queue", address=address)).spiffe_id == WEB
    bundles = await sdk.fetch_jwt_bundles(address)
    assert sdk.verify_jwt_svid(svid.token, "db", bundles).spiffe_id == WEB
    for token, code in (
        (svid.token, "VST1014"),
        (TestAuthority(TD).jwt_svid("/web", "other").token, "VST1013"),
    ):
        with pytest.raises(VestibuleError, match=code):
            sdk.verify_jwt_svid(token, "other", bundles)


async def command(*words: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vestibule", *words, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_line_fetches_and_validates(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    where = ("--agent-socket", str(agent.settings.socket_path))
    code, token, error = await command("svid", "fetch", "--jwt", "--audience", "db", *where)
    assert (code, token.count("\n"), token.count(".")) == (0, 1, 2), error
    code, out, error = await command("svid", "validate", "--audience", "db", *where, stdin=token)
    assert (code, out.splitlines()[0]) == (0, str(WEB)), error
    file = world.directory / "token"
    file.write_text(token)
    words = ("svid", "validate", "--audience", "other", "--token-file", str(file), "-o", "json", *where)
    code, out, _ = await command(*words)
    assert code != 0
    assert json.loads(out)["errors"][0]["code"] == "VST2201"
    for wrong in (("--jwt",), ("--audience", "db")):
        code, _, error = await command("svid", "fetch", *wrong, *where)
        assert code == 2, error
