"""WIT-SVIDs as agents, servers below and the operator get them from a server: over the wire."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from grpclib.const import Status
from tests.component.server_lab import (
    DOMAIN,
    Agent,
    Lab,
    grpc_error,
    running,
    short_directory,
    svid_of,
    wire_id,
)

from vestibule.calls.identity_api import bundle_from_wire
from vestibule.calls.upstream_api import OwnIdentity, UpstreamApi
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.bundles import to_jwks
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.wit import verify_wit_svid
from vestibule.spiffe import TrustBundle
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import bundle_pb2, localauthority_pb2, svid_pb2, types_pb2

LOCAL = localauthority_pb2.DESCRIPTOR.services_by_name["LocalAuthority"]
HOLDER = generate_key()
PUBLIC = public_key_der(HOLDER.public_key())


async def bundle(lab: Lab) -> TrustBundle:
    return bundle_from_wire(await lab.operator.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest()))


async def refusal(call: Any) -> Status:
    with pytest.raises(VestibuleError) as caught:
        await call
    return grpc_error(caught.value).status


def params(entry: str, public_key: bytes = PUBLIC, algorithm: str = "ES256") -> svid_pb2.NewWITSVIDParams:
    return svid_pb2.NewWITSVIDParams(entry_id=entry, public_key=public_key, signing_algorithm=algorithm)


def batch(*wanted: svid_pb2.NewWITSVIDParams) -> svid_pb2.BatchNewWITSVIDRequest:
    return svid_pb2.BatchNewWITSVIDRequest(params=wanted)


async def below(lab: Lab) -> Agent:
    """A server below this one, as far as its certificate goes."""
    agent = await lab.agent()
    entry = await lab.entry("/below", agent.id, downstream=True)
    key = generate_key()
    answer = await agent.new_svid(entry, make_csr(key))
    return await lab.stranger(svid_of(answer.svid.cert_chain, key))


async def test_agents_and_the_operator_get_tokens_bound_to_keys_and_nobody_else() -> None:
    with short_directory() as directory:
        async with running(directory, experimental_wit_svids=True) as lab:
            agent = await lab.agent()
            entry = await lab.entry("/web", agent.id, x509_svid_ttl=60, hint="in")
            wanted = batch(
                params(entry),
                params("unknown"),
                params(""),
                params(entry, b""),
                params(entry, b"no key"),
                params(entry, algorithm="RS256"),
            )
            results = (await agent.svids.unary("BatchNewWITSVID", wanted)).results
            assert [each.status.code for each in results] == [
                Status.OK.value,
                Status.NOT_FOUND.value,
                *[Status.INVALID_ARGUMENT.value] * 4,
            ]
            answer = results[0].svid
            svid = verify_wit_svid(answer.token, {DOMAIN: await bundle(lab)}.get, datetime.now(UTC))
            assert (svid.spiffe_id.path, svid.public_key, svid.algorithm) == ("/web", PUBLIC, "ES256")
            assert (answer.id.path, answer.hint) == ("/web", "in")
            assert answer.expires_at == answer.issued_at + 60 == svid.expires_at.timestamp()

            mint = svid_pb2.MintWITSVIDRequest(
                id=wire_id("/batch"), public_key=PUBLIC, ttl=30, signing_algorithm="ES256"
            )
            minted = (await lab.operator.svids.unary("MintWITSVID", mint)).svid
            assert minted.expires_at == minted.issued_at + 30
            found = verify_wit_svid(minted.token, {DOMAIN: await bundle(lab)}.get, datetime.now(UTC))
            assert found.spiffe_id.path == "/batch"

            stranger = await lab.stranger()
            foreign = svid_pb2.MintWITSVIDRequest(
                id=wire_id("/spire/server"), public_key=PUBLIC, signing_algorithm="ES256"
            )
            for call, status in (
                (stranger.svids.unary("BatchNewWITSVID", wanted), Status.PERMISSION_DENIED),
                (lab.operator.svids.unary("BatchNewWITSVID", wanted), Status.PERMISSION_DENIED),
                (agent.svids.unary("MintWITSVID", mint), Status.PERMISSION_DENIED),
                (agent.svids.unary("BatchNewWITSVID", batch()), Status.INVALID_ARGUMENT),
                (lab.operator.svids.unary("MintWITSVID", foreign), Status.INVALID_ARGUMENT),
            ):
                assert await refusal(call) is status
            log = (directory / "data" / "audit.jsonl").read_text()
            assert '"wit-svid.issue"' in log
            assert '"wit-svid.mint"' in log
            assert answer.token not in log


async def test_wit_authorities_live_like_the_others_and_are_in_the_bundle_under_their_own_use() -> None:
    with short_directory() as directory:
        async with running(directory, experimental_wit_svids=True) as lab:
            local = Client(lab.operator.channel, LOCAL)

            async def step(name: str, **fields: Any) -> Any:
                request = getattr(localauthority_pb2, f"{name}WITAuthorityRequest")(**fields)
                return await local.unary(f"{name}WITAuthority", request)

            async def keys() -> dict[str, bool]:
                return {each.key_id: each.tainted for each in (await bundle(lab)).wit_authorities}

            state = await local.unary(
                "GetWITAuthorityState", localauthority_pb2.GetWITAuthorityStateRequest()
            )
            first = state.active.authority_id
            assert await keys() == {first: False}
            document = json.loads(to_jwks(await bundle(lab)))
            uses = {key.get("kid"): key["use"] for key in document["keys"]}
            assert uses[first] == "wit-svid"
            assert len([each for each in uses.values() if each == "jwt-svid"]) == 1

            second = (await step("Prepare")).prepared_authority.authority_id
            assert await keys() == {first: False, second: False}
            assert await refusal(step("Taint", authority_id=first)) is not Status.OK
            await step("Activate", authority_id=second)
            assert (await step("Taint", authority_id=first)).tainted_authority.authority_id == first
            assert await keys() == {first: True, second: False}
            await step("Revoke", authority_id=first)
            assert await keys() == {second: False}
            agent = await lab.agent()
            entry = await lab.entry("/web", agent.id)
            [result] = (await agent.svids.unary("BatchNewWITSVID", batch(params(entry)))).results
            svid = verify_wit_svid(result.svid.token, {DOMAIN: await bundle(lab)}.get, datetime.now(UTC))
            assert svid.key_id == second
        async with running(directory, experimental_wit_svids=True) as lab:
            assert [each.key_id for each in (await bundle(lab)).wit_authorities] == [second]
        async with running(directory) as lab:
            assert (await bundle(lab)).wit_authorities == (), "switched off, nothing of it is trusted"


async def test_a_server_below_publishes_its_key_but_not_under_another_key_s_name() -> None:
    with short_directory() as directory:
        async with running(directory, experimental_wit_svids=True) as lab:
            server = await below(lab)
            ends = int(datetime.now(UTC).timestamp()) + 3600
            key = types_pb2.WITKey(public_key=PUBLIC, key_id="below", expires_at=ends)
            request = bundle_pb2.PublishWITAuthorityRequest(wit_authority=key)
            answer = await server.bundles.unary("PublishWITAuthority", request)
            assert "below" in [each.key_id for each in answer.wit_authorities]
            assert "below" in [each.key_id for each in (await bundle(lab)).wit_authorities]
            jwt = types_pb2.JWTKey(public_key=PUBLIC, key_id="below", expires_at=ends)
            same = bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=jwt)
            assert await refusal(server.bundles.unary("PublishJWTAuthority", same)) is Status.INVALID_ARGUMENT
            taken = types_pb2.WITKey(
                public_key=PUBLIC, key_id=(await bundle(lab)).jwt_authorities[0].key_id, expires_at=ends
            )
            request = bundle_pb2.PublishWITAuthorityRequest(wit_authority=taken)
            assert (
                await refusal(server.bundles.unary("PublishWITAuthority", request)) is Status.INVALID_ARGUMENT
            )
            agent = await lab.agent()
            assert (
                await refusal(agent.bundles.unary("PublishWITAuthority", request)) is Status.PERMISSION_DENIED
            )


def upstream(server: Agent) -> UpstreamApi:
    """What a server below calls the one above with."""
    return UpstreamApi(server.channel, MagicMock(spec=OwnIdentity), DOMAIN)


async def test_a_server_below_learns_all_keys_or_that_there_are_none_here() -> None:
    made = TestAuthority("example.org").jwt_authority
    key = replace(made, expires_at=datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1))
    with short_directory() as directory:
        async with running(directory, experimental_wit_svids=True) as lab:
            keys = await upstream(await below(lab)).publish_wit(key)
            assert keys == (await bundle(lab)).wit_authorities
            assert key in keys
    with short_directory() as directory:
        async with running(directory) as lab:
            assert await upstream(await below(lab)).publish_wit(key) is None
            with pytest.raises(VestibuleError):
                await upstream(await lab.agent()).publish_wit(key)


async def test_without_the_flag_every_call_about_them_is_unimplemented() -> None:
    with short_directory() as directory:
        async with running(directory) as lab:
            agent, server = await lab.agent(), await below(lab)
            entry = await lab.entry("/web", agent.id)
            local = Client(lab.operator.channel, LOCAL)
            mint = svid_pb2.MintWITSVIDRequest(id=wire_id("/a"), public_key=PUBLIC, signing_algorithm="ES256")
            ends = int(datetime.now(UTC).timestamp()) + 3600
            key = types_pb2.WITKey(public_key=PUBLIC, key_id="below", expires_at=ends)
            publish = bundle_pb2.PublishWITAuthorityRequest(wit_authority=key)
            calls = [
                agent.svids.unary("BatchNewWITSVID", batch(params(entry))),
                lab.operator.svids.unary("MintWITSVID", mint),
                server.bundles.unary("PublishWITAuthority", publish),
                local.unary("GetWITAuthorityState", localauthority_pb2.GetWITAuthorityStateRequest()),
                local.unary("PrepareWITAuthority", localauthority_pb2.PrepareWITAuthorityRequest()),
                *(
                    local.unary(
                        f"{step}WITAuthority",
                        getattr(localauthority_pb2, f"{step}WITAuthorityRequest")(authority_id="a"),
                    )
                    for step in ("Activate", "Taint", "Revoke")
                ),
            ]
            for call in calls:
                assert await refusal(call) is Status.UNIMPLEMENTED
            assert (await bundle(lab)).wit_authorities == ()
