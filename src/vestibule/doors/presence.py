"""``vestibule.node.v1.Presence``: agents without a valid SVID return, and anybody may ask for the time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.doors.access import denied_details
from vestibule.doors.identity_api.values import receive
from vestibule.doors.limits import Limits
from vestibule.identity.codes import MISSING_PARAMETER
from vestibule.identity.names import agent_id
from vestibule.identity.returning import Claim, Returning
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.quotas import source_of
from vestibule.net.tls import shown_certificate
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.wire.gen.vestibule.node.v1 import presence_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Presence"]
RETURN_SECONDS: Final = 30.0
MAX_SERIAL: Final = 64
MAX_KEY: Final = 1024
MAX_CSR: Final = 64 * 1024


class PresenceDoor:
    """Translates for ``identity.returning``."""

    def __init__(self, returning: Returning, clock: Clock, trust_domain: TrustDomain, limits: Limits) -> None:
        self._returning = returning
        self._clock = clock
        self._trust_domain = trust_domain
        self._attempts = limits.returning
        self._questions = limits.time

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self, details=denied_details)

    async def return_(self, stream: Stream) -> None:
        """Return: hello, challenge, proof, SVID."""
        await self._attempts.pass_through(_source())
        try:
            async with asyncio.timeout(RETURN_SECONDS):
                await self._return(stream)
        except TimeoutError:
            raise MISSING_PARAMETER.error("the return was not completed in time") from None

    async def _return(self, stream: Stream) -> None:
        claim = self._claim(await receive(stream))
        challenge = self._returning.challenge()
        await stream.send_message(wire.ReturnResponse(challenge=challenge))
        request = await receive(stream)
        if request.WhichOneof("step") != "proof" or len(request.proof.csr) > MAX_CSR:
            raise MISSING_PARAMETER.error("the agent did not answer the challenge with a proof")
        svid = await self._returning.back(
            claim, challenge, shown_certificate(stream), request.proof.csr, request.proof.signature
        )
        await stream.send_message(wire.ReturnResponse(svid=wire.ReturnResponse.Svid(cert_chain=svid.chain)))

    def _claim(self, request: Any) -> Claim:
        hello = request.hello
        if request.WhichOneof("step") != "hello":
            raise MISSING_PARAMETER.error("a return begins with who is back")
        if not 0 < len(hello.serial) <= MAX_SERIAL or not 0 < len(hello.public_key) <= MAX_KEY:
            raise MISSING_PARAMETER.error("a return names the last serial number and its public key")
        return Claim(
            spiffe_id=agent_id(SpiffeId.parse(hello.spiffe_id), self._trust_domain),
            serial=hello.serial,
            public_key=hello.public_key,
            address=current_caller().address,
        )

    async def get_time(self, stream: Stream) -> None:
        """GetTime."""
        await self._questions.pass_through(_source())
        await receive(stream)
        now = self._clock.now()
        await stream.send_message(wire.GetTimeResponse(unix_microseconds=int(now.timestamp() * 1_000_000)))


def _source() -> str:
    return source_of(current_caller().address.rpartition(":")[0])
