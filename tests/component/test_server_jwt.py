"""JWT-SVIDs as agents and the operator get them from a server: over the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from grpclib.const import Status
from tests.component.server_lab import DOMAIN, Lab, grpc_error, running, short_directory, wire_id

from vestibule.errors import VestibuleError
from vestibule.pki.jwt import verify_jwt_svid
from vestibule.spiffe import JwtAuthority, JwtSvid, TrustBundle
from vestibule.wire.gen.spire import bundle_pb2, svid_pb2


async def bundle(lab: Lab) -> TrustBundle:
    answer = await lab.operator.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
    keys = tuple(
        JwtAuthority(key_id=each.key_id, public_key=each.public_key) for each in answer.jwt_authorities
    )
    assert all(each.expires_at > datetime.now(UTC).timestamp() for each in answer.jwt_authorities)
    return TrustBundle(trust_domain=DOMAIN, x509_authorities=(), jwt_authorities=keys)


async def verified(lab: Lab, svid: Any, audience: str) -> JwtSvid:
    trust = {DOMAIN: await bundle(lab)}
    return verify_jwt_svid(svid.token, [audience], trust.get, datetime.now(UTC))


async def refusal(call: Any) -> Status:
    with pytest.raises(VestibuleError) as caught:
        await call
    return grpc_error(caught.value).status


async def test_agents_and_the_operator_get_tokens_and_nobody_else() -> None:
    with short_directory() as directory:
        async with running(directory, jwt_issuer="https://id.example.org") as lab:
            agent = await lab.agent()
            entry = await lab.entry("/web", agent.id, jwt_svid_ttl=60, hint="in")
            request = svid_pb2.NewJWTSVIDRequest(entry_id=entry, audience=["db"])
            answer = (await agent.svids.unary("NewJWTSVID", request)).svid
            svid = await verified(lab, answer, "db")
            assert str(svid.spiffe_id) == "spiffe://example.org/web"
            assert svid.claims["iss"] == "https://id.example.org"
            assert (answer.id.path, answer.hint) == ("/web", "in")
            assert answer.expires_at == answer.issued_at + 60 == svid.expires_at.timestamp()

            mint = svid_pb2.MintJWTSVIDRequest(id=wire_id("/batch"), audience=["db"], ttl=30)
            minted = (await lab.operator.svids.unary("MintJWTSVID", mint)).svid
            assert str((await verified(lab, minted, "db")).spiffe_id) == "spiffe://example.org/batch"

            stranger = await lab.stranger()
            other = svid_pb2.NewJWTSVIDRequest(entry_id="unknown", audience=["db"])
            empty = svid_pb2.NewJWTSVIDRequest(entry_id=entry)
            foreign = svid_pb2.MintJWTSVIDRequest(id=wire_id("/spire/server"), audience=["db"])
            for call, status in (
                (stranger.svids.unary("NewJWTSVID", request), Status.PERMISSION_DENIED),
                (lab.operator.svids.unary("NewJWTSVID", request), Status.PERMISSION_DENIED),
                (agent.svids.unary("MintJWTSVID", mint), Status.PERMISSION_DENIED),
                (agent.svids.unary("NewJWTSVID", other), Status.NOT_FOUND),
                (agent.svids.unary("NewJWTSVID", empty), Status.INVALID_ARGUMENT),
                (lab.operator.svids.unary("MintJWTSVID", foreign), Status.INVALID_ARGUMENT),
                (lab.operator.svids.unary("MintJWTSVID", svid_pb2.MintJWTSVIDRequest()), Status.INVALID_ARGUMENT),
            ):  # fmt: skip
                assert await refusal(call) is status
            log = (directory / "data" / "audit.jsonl").read_text()
            assert '"jwt-svid.issue"' in log
            assert '"jwt-svid.mint"' in log
            assert answer.token not in log


async def test_a_server_without_jwt_svids_says_so() -> None:
    with short_directory() as directory:
        async with running(directory, disable_jwt_svids=True) as lab:
            agent = await lab.agent()
            entry = await lab.entry("/web", agent.id)
            request = svid_pb2.NewJWTSVIDRequest(entry_id=entry, audience=["db"])
            assert await refusal(agent.svids.unary("NewJWTSVID", request)) is Status.UNIMPLEMENTED
            mint = svid_pb2.MintJWTSVIDRequest(id=wire_id("/web"), audience=["db"])
            assert await refusal(lab.operator.svids.unary("MintJWTSVID", mint)) is Status.UNIMPLEMENTED
            assert (await bundle(lab)).jwt_authorities == ()
