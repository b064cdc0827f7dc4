"""SDS as SPIRE's users know it: every name, in both variants of the protocol, with and without the validator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.json_format import ParseDict
from grpclib.const import Status
from tests.component.server_lab import grpc_error
from tests.component.test_agent import ME, Field, Running, a_world

from vestibule.calls.unix import unix_channel
from vestibule.doors.sds import SERVICE
from vestibule.doors.sds_secrets import SdsSettings
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import SECRET

ONE, TWO, DOMAIN = "spiffe://example.org/one", "spiffe://example.org/two", "spiffe://example.org"
UNKNOWN = "spiffe://example.org/another-s"
ALL_NAMES = [ONE, TWO, "default", DOMAIN, "ROOTCA", "ALL"]
PLAIN = {"id": "e", "metadata": {"disable_spiffe_cert_validation": "true"}}


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def an_agent(world: Field, **changes: Any) -> Running:
    """An agent, this process having two identities."""
    agent = await world.agent(await world.first_settings(**changes))
    for path in ("/one", "/two"):
        await world.server.entry(agent.id, path, ME)
    await agent.until(lambda found: len(found.svids) == 2)
    return agent


@asynccontextmanager
async def sds(agent: Running) -> AsyncIterator[Client]:
    channel = unix_channel(agent.settings.socket_path)
    try:
        async with asyncio.timeout(60):
            yield Client(channel, SERVICE)
    finally:
        channel.close()


def sotw(*names: str, **fields: Any) -> Any:
    return ParseDict(
        {"type_url": SECRET, "resource_names": names, **fields}, discovery_pb2.DiscoveryRequest()
    )


def delta(*names: str, **fields: Any) -> Any:
    body = {"type_url": SECRET, "resource_names_subscribe": names, **fields}
    return ParseDict(body, discovery_pb2.DeltaDiscoveryRequest())


def secrets(answer: Any) -> dict[str, secret_pb2.Secret]:
    """By the name that each says it has; in delta, by that on its envelope."""
    found = {}
    for each in answer.resources:
        secret = secret_pb2.Secret()
        body = each.resource if hasattr(each, "resource") else each
        assert body.Unpack(secret)
        assert getattr(each, "name", secret.name) == secret.name
        found[secret.name] = secret
    assert len(found) == len(answer.resources)
    return found


def is_plain(secret: secret_pb2.Secret) -> bool:
    context = secret.validation_context
    assert context.HasField("trusted_ca") != context.HasField("custom_validator_config")
    return bool(context.HasField("trusted_ca"))


async def ask(client: Client, method: str, request: Any) -> Any:
    if method == "FetchSecrets":
        return await client.unary(method, request)
    async with client.stream(method) as stream:
        await stream.send_message(request)
        return await stream.recv_message()


async def refusal(client: Client, method: str, request: Any) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await ask(client, method, request)
    return caught.value


METHODS = [("StreamSecrets", sotw), ("FetchSecrets", sotw), ("DeltaSecrets", delta)]


async def test_every_name_and_all_of_them_in_one_request(world: Field) -> None:
    agent = await an_agent(world)
    async with sds(agent) as client:
        for method, request in METHODS:
            for name in ALL_NAMES:
                assert list(secrets(await ask(client, method, request(name)))) == [name], (method, name)
            mixed = secrets(await ask(client, method, request(*ALL_NAMES)))
            assert mixed.keys() == set(ALL_NAMES), method
            assert mixed["default"].tls_certificate in (
                mixed[ONE].tls_certificate,
                mixed[TWO].tls_certificate,
            )
            assert not any(is_plain(mixed[name]) for name in (DOMAIN, "ROOTCA", "ALL"))
            for everything in (request(), request("")):
                assert secrets(await ask(client, method, everything)).keys() == {ONE, TWO, DOMAIN}, method


async def test_who_wants_no_validator_gets_plain_authorities_but_never_all_at_once(world: Field) -> None:
    agent = await an_agent(world)
    async with sds(agent) as client:
        for method, request in METHODS:
            found = secrets(await ask(client, method, request(DOMAIN, "ROOTCA", "default", node=PLAIN)))
            assert is_plain(found[DOMAIN])
            assert is_plain(found["ROOTCA"])
        for method in ("StreamSecrets", "FetchSecrets"):
            error = await refusal(client, method, sotw("ALL", "ROOTCA", node=PLAIN))
            assert grpc_error(error).status is Status.INVALID_ARGUMENT
            assert "SPIFFE validator" in error.message
        answer = await ask(client, "DeltaSecrets", delta("ALL", "ROOTCA", node=PLAIN))
        assert list(answer.removed_resources) == ["ALL"]
        # The node is that of the first request, also where later ones leave it out.
        async with client.stream("StreamSecrets") as stream:
            await stream.send_message(sotw("default", node=PLAIN))
            first = await stream.recv_message()
            ack = {"version_info": first.version_info, "response_nonce": first.nonce}
            await stream.send_message(sotw("default", "ROOTCA", **ack))
            assert is_plain(secrets(await stream.recv_message())["ROOTCA"])


async def test_the_agent_s_settings_name_secrets_and_choose_the_form(world: Field) -> None:
    settings = SdsSettings(
        default_svid_name="me",
        default_bundle_name="null",
        default_all_bundles_name="ROOTCA",
        disable_spiffe_cert_validation=True,
    )
    agent = await an_agent(world, sds=settings)
    async with sds(agent) as client:
        found = secrets(await ask(client, "StreamSecrets", sotw("me", "null", DOMAIN)))
        assert is_plain(found["null"])
        assert found["me"].HasField("tls_certificate")
        error = await refusal(client, "StreamSecrets", sotw("ROOTCA"))
        assert "SPIFFE validator" in error.message
        validating = {"id": "e", "metadata": {"disable_spiffe_cert_validation": False}}
        found = secrets(await ask(client, "StreamSecrets", sotw("ROOTCA", node=validating)))
        assert not is_plain(found["ROOTCA"])


async def test_an_unknown_name_fails_a_whole_request_and_in_delta_is_told_as_removed(world: Field) -> None:
    agent = await an_agent(world)
    async with sds(agent) as client:
        for method in ("StreamSecrets", "FetchSecrets"):
            error = await refusal(client, method, sotw("default", UNKNOWN, "ROOTCA", "b"))
            assert grpc_error(error).status is Status.INVALID_ARGUMENT
            assert f'not authorized for the requested identities ["b" "{UNKNOWN}"]' in error.message
        answer = await ask(client, "DeltaSecrets", delta("default", UNKNOWN, "b"))
        assert set(secrets(answer)) == {"default"}
        assert sorted(answer.removed_resources) == ["b", UNKNOWN]


async def test_an_identity_that_comes_later_is_sent_then_and_one_that_goes_is_taken_back(
    world: Field,
) -> None:
    agent = await an_agent(world)
    late = "spiffe://example.org/late"
    async with sds(agent) as client, client.stream("DeltaSecrets") as stream:
        await stream.send_message(delta(late))
        assert list((await stream.recv_message()).removed_resources) == [late]
        entry = await world.server.entry(agent.id, SpiffeId.parse(late).path, ME)
        assert list(secrets(await stream.recv_message())) == [late]

        async def follow_until_it_is_gone() -> None:
            async with client.stream("StreamSecrets") as state:
                await state.send_message(sotw(late))
                await state.recv_message()
                await world.server.delete_entry(entry)
                await state.recv_message()

        with pytest.raises(VestibuleError, match="not authorized for the requested identities"):
            await follow_until_it_is_gone()
        assert list((await stream.recv_message()).removed_resources) == [late]


async def test_a_stale_nonce_is_passed_over_and_a_refusal_is_logged(
    world: Field, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await an_agent(world)
    async with sds(agent) as client, client.stream("StreamSecrets") as stream:
        await stream.send_message(sotw("default", node={"id": "edge-7"}))
        first = await stream.recv_message()
        # It would be an error, were it not for the nonce, which is nobody's.
        await stream.send_message(sotw(UNKNOWN, version_info=first.version_info, response_nonce="stale"))
        refused = {"code": 3, "message": "no such curve"}
        with caplog.at_level(logging.ERROR):
            await stream.send_message(
                sotw("default", "ROOTCA", response_nonce=first.nonce, error_detail=refused)
            )
            # A refusal may ask for other names, too; what was refused is not sent again unchanged.
            assert list(secrets(await stream.recv_message())) == ["ROOTCA"]
        [record] = [each for each in caplog.records if "refused secrets" in each.message]
        assert "no such curve" in record.message
        assert "edge-7" in record.message


async def test_changed_names_are_answered_and_only_with_what_is_new(world: Field) -> None:
    agent = await an_agent(world)
    async with sds(agent) as client, client.stream("StreamSecrets") as stream:
        await stream.send_message(sotw(ONE))
        answer = await stream.recv_message()
        for names, new in (([ONE, "ROOTCA"], "ROOTCA"), (["ROOTCA", TWO], TWO), ([TWO, "ALL"], "ALL")):
            ack = {"version_info": answer.version_info, "response_nonce": answer.nonce}
            await stream.send_message(sotw(*names, **ack))
            answer = await stream.recv_message()
            assert list(secrets(answer)) == [new]
