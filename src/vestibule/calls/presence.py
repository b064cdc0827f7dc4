"""How an agent returns with the key of its last SVID, and what it asks about the time."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.channel import ServerChannel
from vestibule.calls.codes import BAD_ANSWER, MUST_ATTEST, NOT_LET_BACK
from vestibule.calls.standing import standing
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.net.grpc import Client, Stream
from vestibule.net.peer_chains import peer_chain
from vestibule.pki.keys import key_from_pkcs8, public_key_der
from vestibule.pki.possession import CHALLENGE_BYTES, Statement, sign_statement
from vestibule.spiffe import X509Svid
from vestibule.wire.gen.vestibule.node.v1 import presence_pb2 as wire

_NO: Final = frozenset({Kind.DENIED, Kind.PRECONDITION, Kind.INVALID, Kind.UNIMPLEMENTED})
Chain = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTime:
    """What the server's clock said at some instant between our two readings; ``rtt`` is by a clock that never steps."""

    theirs: datetime
    ours: datetime
    rtt: timedelta


class PresenceApi:
    """A client of ``vestibule.node.v1.Presence``."""

    def __init__(self, channel: ServerChannel) -> None:
        self._client = Client(channel, wire.DESCRIPTOR.services_by_name["Presence"])

    async def come_back(self, last: X509Svid, csr: bytes) -> Chain:
        """A new SVID for the holder of the last one's key.

        Raises: VST2334 (the server does not take it), VST2330 (banned), VST2300, VST2315.
        """
        key = key_from_pkcs8(last.key)
        hello = wire.ReturnRequest.Hello(
            spiffe_id=str(last.spiffe_id),
            serial=str(last.serial),
            public_key=public_key_der(key.public_key()),
        )
        try:
            with standing():
                async with self._client.stream("Return", timeout=30.0) as stream:
                    await stream.send_message(wire.ReturnRequest(hello=hello))
                    if (challenge := await _step(stream, "challenge")) is not None:
                        proof = _proof(stream, last, key, challenge, csr)
                        await stream.send_message(wire.ReturnRequest(proof=proof), end=True)
                        if (svid := await _step(stream, "svid")) is not None:
                            return tuple(svid.cert_chain)
                # Leaving the block raises what the server refused with.
                raise BAD_ANSWER.error("the server ended the return without a result")
        except VestibuleError as error:
            # An older server has no such method, and says so without a code of ours.
            cause = error.__cause__
            unknown = isinstance(cause, GRPCError) and cause.status is Status.UNIMPLEMENTED
            theirs = error.code is MUST_ATTEST or (isinstance(cause, GRPCError) and error.code.kind in _NO)
            if unknown or theirs:
                raise NOT_LET_BACK.error(f"the server did not let the agent back: {error}") from error
            raise

    async def time(self, clock: Clock) -> ServerTime:
        """The server's time, and how long the question took."""
        began = time.monotonic()
        answer = await self._client.unary("GetTime", wire.GetTimeRequest(), timeout=5.0)
        ours, rtt = clock.now(), time.monotonic() - began
        theirs = datetime.fromtimestamp(answer.unix_microseconds / 1_000_000, UTC)
        return ServerTime(theirs=theirs, ours=ours, rtt=timedelta(seconds=rtt))


def _proof(
    stream: Stream, last: X509Svid, key: EllipticCurvePrivateKey, challenge: bytes, csr: bytes
) -> wire.ReturnRequest.Proof:
    if len(challenge) != CHALLENGE_BYTES:
        raise BAD_ANSWER.error(f"the server's challenge has {len(challenge)} bytes")
    statement = Statement(
        spiffe_id=last.spiffe_id,
        serial=str(last.serial),
        challenge=challenge,
        server_leaf=_server_leaf(stream),
        csr=csr,
    )
    return wire.ReturnRequest.Proof(signature=sign_statement(statement, key), csr=csr)


async def _step(stream: Stream, name: str) -> Any:
    """The named step of the next answer; ``None`` if the server ended the call."""
    answer = await stream.recv_message()
    if answer is not None and answer.WhichOneof("step") != name:
        raise BAD_ANSWER.error(f"the server did not answer with its {name}")
    return None if answer is None else getattr(answer, name)


def _server_leaf(stream: Stream) -> bytes:
    tls = stream._stream.connection._transport.get_extra_info("ssl_object")
    return hashlib.sha256(peer_chain(tls)[0]).digest()
