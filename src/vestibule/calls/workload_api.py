"""The Workload API as a client sees it (SPIFFE_Workload_API.md), of this agent or of any other implementation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.client import Channel

from vestibule.calls.codes import BAD_ANSWER
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.bundles import from_jwt_jwks
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.jwt import read_jwt_svid
from vestibule.spiffe import JwtSvid, SpiffeId, TrustBundle, X509Svid
from vestibule.wire.gen.spiffe import workload_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
HEADER: Final = {"workload.spiffe.io": "true"}


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Context:
    """Everything a workload has: its SVIDs, the default one first, and the bundles by trust domain."""

    svids: tuple[X509Svid, ...]
    bundles: tuple[TrustBundle, ...]

    def bundle_of(self, svid: X509Svid) -> TrustBundle:
        """The bundle of an SVID's own trust domain."""
        return next(each for each in self.bundles if each.trust_domain == svid.spiffe_id.trust_domain)

    def verify(self, now: datetime) -> None:
        """Hold every SVID against its own bundle.  Raises: errors of ``pki.chains``."""
        for svid in self.svids:
            verify_x509_svid(svid.chain, self.bundle_of(svid), now)


class WorkloadApi:
    """A client on a channel to the endpoint."""

    def __init__(self, channel: Channel) -> None:
        self._client = Client(channel, SERVICE)

    async def fetch(self) -> X509Context:
        """What the calling process has now.  Raises: the agent's errors (VST2105 without identity), VST2300."""
        async with aclosing(self.watch()) as contexts:
            async for context in contexts:
                return context
        raise BAD_ANSWER.error("the Workload API ended without an answer")

    async def watch(self) -> AsyncGenerator[X509Context, None]:
        """The same, and again after every change, until the agent ends the stream.  Raises as ``fetch`` does."""
        async with self._client.stream("FetchX509SVID", metadata=HEADER) as stream:
            await stream.send_message(wire.X509SVIDRequest(), end=True)
            while (response := await stream.recv_message()) is not None:
                yield context_of(response)

    async def fetch_jwt_svids(
        self, audience: Sequence[str], spiffe_id: SpiffeId | None = None
    ) -> tuple[JwtSvid, ...]:
        """Tokens of the calling process for all of ``audience``: of each identity, or of one.

        They are read, not verified: whoever they are shown to does that.  Raises as ``fetch`` does.
        """
        request = wire.JWTSVIDRequest(audience=audience, spiffe_id=str(spiffe_id or ""))
        response = await self._client.unary("FetchJWTSVID", request, metadata=HEADER)
        svids = tuple(_jwt_svid(each, audience) for each in response.svids)
        if not svids:
            raise BAD_ANSWER.error("the Workload API's answer has no JWT-SVID")
        return svids

    async def fetch_jwt_bundles(self) -> tuple[TrustBundle, ...]:
        """The keys that tokens of each trust domain are verified with.  Raises as ``fetch`` does."""
        async with aclosing(self.watch_jwt_bundles()) as answers:
            async for bundles in answers:
                return bundles
        raise BAD_ANSWER.error("the Workload API ended without an answer")

    async def watch_jwt_bundles(self) -> AsyncGenerator[tuple[TrustBundle, ...], None]:
        """The same, and again after every change, until the agent ends the stream."""
        async with self._client.stream("FetchJWTBundles", metadata=HEADER) as stream:
            await stream.send_message(wire.JWTBundlesRequest(), end=True)
            while (response := await stream.recv_message()) is not None:
                yield _jwt_bundles(response.bundles)

    async def validate_jwt_svid(self, token: str, audience: str) -> JwtSvid:
        """What a token proves to ``audience``, by the word of the Workload API.

        Raises: the agent's refusal (VST2201 of ours), VST2300.
        """
        # Heavy, and needed here alone.
        from google.protobuf.json_format import MessageToDict

        request = wire.ValidateJWTSVIDRequest(audience=audience, svid=token)
        response = await self._client.unary("ValidateJWTSVID", request, metadata=HEADER)
        try:
            svid = read_jwt_svid(token)
            if str(svid.spiffe_id) != response.spiffe_id:
                raise BAD_ANSWER.error(
                    f"the token of {svid.spiffe_id} was said to be of {response.spiffe_id}"
                )
        except VestibuleError as error:
            raise BAD_ANSWER.error(f"a token that is none was called valid: {error.message}") from error
        return replace(svid, claims=MessageToDict(response.claims))


def _jwt_svid(message: wire.JWTSVID, audience: Sequence[str]) -> JwtSvid:
    try:
        svid = read_jwt_svid(message.svid)
    except VestibuleError as error:
        raise BAD_ANSWER.error(f"the Workload API's token breaks the standard: {error.message}") from error
    if str(svid.spiffe_id) != message.spiffe_id or not set(svid.audience) >= set(audience):
        raise BAD_ANSWER.error(
            f"the Workload API gave another token than one of {message.spiffe_id} as asked"
        )
    return replace(svid, hint=message.hint)


def _jwt_bundles(documents: Mapping[str, bytes]) -> tuple[TrustBundle, ...]:
    try:
        return tuple(
            from_jwt_jwks(SpiffeId.parse(name).trust_domain, each) for name, each in documents.items()
        )
    except VestibuleError as error:
        raise BAD_ANSWER.error(f"the Workload API's answer breaks the standard: {error}") from error


def context_of(response: wire.X509SVIDResponse) -> X509Context:
    """Read a response.  Raises: VST2332 for one that breaks the standard."""
    try:
        svids = tuple(_svid(each) for each in response.svids)
        bundles = {
            svid.spiffe_id.trust_domain: tuple(_split(each.bundle))
            for svid, each in zip(svids, response.svids, strict=True)
        }
        for name, der in response.federated_bundles.items():
            bundles.setdefault(SpiffeId.parse(name).trust_domain, tuple(_split(der)))
    except (VestibuleError, ValueError) as error:
        raise BAD_ANSWER.error(f"the Workload API's answer breaks the standard: {error}") from error
    if not svids:
        raise BAD_ANSWER.error("the Workload API's answer has no SVID")
    return X509Context(
        svids=svids,
        bundles=tuple(TrustBundle(trust_domain=td, x509_authorities=certs) for td, certs in bundles.items()),
    )


def _svid(message: wire.X509SVID) -> X509Svid:
    chain = tuple(_split(message.x509_svid))
    if not chain:
        raise ValueError("an SVID without a certificate")
    facts = leaf_facts(chain[0])
    if facts.spiffe_id != SpiffeId.parse(message.spiffe_id):
        raise ValueError(f"an SVID of {facts.spiffe_id} is called {message.spiffe_id}")
    return X509Svid(
        spiffe_id=facts.spiffe_id,
        chain=chain,
        key=message.x509_svid_key,
        serial=int(facts.serial),
        not_before=facts.not_before,
        not_after=facts.not_after,
        hint=message.hint,
    )


def _split(data: bytes) -> list[bytes]:
    """Concatenated DER certificates, one by one."""
    found = []
    while data:
        size = _length(data)
        if size > len(data):
            raise ValueError("a certificate is cut short")
        certificate = x509.load_der_x509_certificate(data[:size])
        found.append(certificate.public_bytes(Encoding.DER))
        data = data[size:]
    return found


def _length(data: bytes) -> int:
    """The size of the DER SEQUENCE that data starts with (X.690, section 8.1.3), header included."""
    if len(data) < 2 or data[0] != 0x30:
        raise ValueError("not a DER certificate")
    if data[1] < 0x80:
        return 2 + data[1]
    octets = data[1] & 0x7F
    if not 0 < octets <= 4 or len(data) < 2 + octets:
        raise ValueError("not a DER certificate")
    return 2 + octets + int.from_bytes(data[2 : 2 + octets], "big")
