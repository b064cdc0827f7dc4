"""The agent's connection to its server: mTLS, with the newest certificate, to nobody but the server.

Before the first byte is sent, the server's chain has been verified twice: by the TLS stack, against the trust
bundle alone, and by ``pki.chains``, which also demands the server's SPIFFE ID (X509-SVID.md, section 5.2).
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from google.rpc import status_pb2
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.protocol import H2Protocol

from vestibule.calls.unix import CheckedChannel
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import SERVER_NOT_TRUSTED, UNREACHABLE
from vestibule.net.data_frames import PlainData, PlainFrames, hand_over
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import client_context
from vestibule.pki.revocation import verify_unrevoked
from vestibule.records import Address
from vestibule.spiffe import Revocations, SpiffeId, TrustBundle, TrustDomain, X509Svid

SERVER_PATH: Final = "/spire/server"
CONNECT_TIMEOUT: Final = 5.0
FAREWELL: Final = 20.0
"""Seconds that calls on a replaced connection may go on."""

_log = logging.getLogger(__name__)


def server_id(trust_domain: TrustDomain) -> SpiffeId:
    """The SPIFFE ID of the trust domain's server (SPIRE's convention)."""
    return SpiffeId.of(trust_domain, SERVER_PATH)


class ServerChannel(CheckedChannel):
    """A channel to the trust domain's server.

    ``bundle``, ``svid`` and ``revocations`` are asked at every new connection.
    Call ``renew`` when their answers changed:
    calls from then on use a new connection, those on the old one have some time to end.
    Connecting raises: VST2300, VST2315.
    """

    def __init__(
        self,
        address: Address,
        *,
        bundle: Callable[[], TrustBundle | None],
        svid: Callable[[], X509Svid | None],
        clock: Clock,
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        # Pings find out within seconds that a server vanished without a word.
        config = Configuration(
            _keepalive_time=10.0,
            _keepalive_timeout=5.0,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=5.0,
        )
        super().__init__(
            address.host,
            address.port,
            codec=ProtoCodec(),
            status_details_codec=RawDetails(),
            config=config,
        )
        self._scheme = "https"
        self._address = address
        self._bundle = bundle
        self._svid = svid
        self._clock = clock
        self._revocations = revocations
        self._retired: set[H2Protocol] = set()

    def renew(self) -> None:
        """Use a new connection from the next call on."""
        old, self._protocol = self._protocol, None
        if old is not None:
            self._retired.add(old)
            self._loop.call_later(FAREWELL, self._bury, old)

    def close(self) -> None:
        """Close all connections; calls on them fail."""
        for old in list(self._retired):
            self._bury(old)
        super().close()

    def _bury(self, old: H2Protocol) -> None:
        self._retired.discard(old)
        if not old.connection.is_closing():
            old.processor.close("the agent's certificate was renewed")

    async def _create_connection(self) -> H2Protocol:
        bundle, svid = self._bundle(), self._svid()
        if bundle is None:
            raise SERVER_NOT_TRUSTED.error("there is no trust bundle yet to know the server by")
        protocol = await self._connect(client_context(svid, bundle), bundle)
        if protocol.refusal is not None:
            raise SERVER_NOT_TRUSTED.error(
                f"whoever answers at {self._address} is not {server_id(bundle.trust_domain)}: "
                f"{protocol.refusal.message}"
            )
        return protocol

    async def _connect(self, context: ssl.SSLContext, bundle: TrustBundle | None) -> _ServerProtocol:
        def protocol() -> _ServerProtocol:
            return _ServerProtocol(self._protocol_factory(), bundle, self._clock, self._revocations)

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, made = await self._loop.create_connection(
                    protocol, self._address.host, self._address.port, ssl=context
                )
        except ssl.SSLCertVerificationError as error:
            raise SERVER_NOT_TRUSTED.error(
                f"whoever answers at {self._address} has no certificate of this trust domain: "
                f"{error.verify_message}"
            ) from error
        except TimeoutError as error:
            raise UNREACHABLE.error(f"{self._address} does not answer") from error
        except ssl.SSLError as error:
            raise UNREACHABLE.error(
                f"whoever answers at {self._address} does not speak this TLS ({error.reason or error})",
                advice="Check that the address is the server's gRPC port, which it prints at start as grpc=.",
            ) from error
        except OSError as error:
            raise UNREACHABLE.error(f"cannot connect to {self._address}: {_reason(error)}") from error
        return made


def _reason(error: OSError) -> str:
    """Why, in words: asyncio's own texts repeat the address as a Python tuple."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


class UnverifiedChannel(ServerChannel):
    """A channel to whoever answers: only for a bundle that is checked by other means, or on explicit request."""

    def __init__(self, address: Address, clock: Clock) -> None:
        super().__init__(address, bundle=lambda: None, svid=lambda: None, clock=clock)

    async def _create_connection(self) -> H2Protocol:
        return await self._connect(client_context(None, None), None)


class _ServerProtocol(H2Protocol):
    """Speaks only once the peer proved to be the server; else ``refusal`` says why it did not."""

    def __init__(
        self,
        plain: H2Protocol,
        bundle: TrustBundle | None,
        clock: Clock,
        revocations: Callable[[], Revocations],
    ) -> None:
        super().__init__(plain.handler, plain.config, plain.h2_config)
        self.refusal: VestibuleError | None = None
        self._bundle = bundle
        self._clock = clock
        self._revocations = revocations
        self._plain: PlainFrames | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._bundle is not None:
            try:
                self._verify(peer_chain(transport.get_extra_info("ssl_object")), self._bundle)
            except VestibuleError as error:
                self.refusal = error
                transport.close()
                return
        super().connection_made(transport)
        self._plain = PlainFrames(self.connection._connection, self._take_data)

    def _take_data(self, event: PlainData) -> None:
        if not hand_over(self.processor.streams.get(event.stream_id), event):
            self.processor.process_data_received(cast(Any, event))

    def _verify(self, chain: Sequence[bytes], bundle: TrustBundle) -> None:
        found = verify_unrevoked(chain, bundle, self._clock.now(), self._revocations())
        if found != server_id(bundle.trust_domain):
            raise SERVER_NOT_TRUSTED.error(f"it proved to be {found}")

    def data_received(self, data: bytes) -> None:
        if self.refusal is not None:
            return
        if self._plain is not None:
            data = self._plain.receive(data)
        if data:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._plain = None
        if self.refusal is None:
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        if self.refusal is None:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self.refusal is None:
            super().resume_writing()


class RawDetails(StatusDetailsCodecBase):
    """Status details as (type name, bytes): our types live in a pool that grpclib does not look into."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        raise NotImplementedError("a client sends no status")

    def decode(self, status: Status, message: str | None, data: bytes) -> list[tuple[str, bytes]]:
        packed = status_pb2.Status.FromString(data)
        return [(each.type_url.rpartition("/")[2], each.value) for each in packed.details]
