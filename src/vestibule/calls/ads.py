"""ADS upstream: one incremental stream for each proxy that an agent stands in for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from envoy.service.discovery.v3 import ads_pb2
from grpclib.client import Channel
from h2.exceptions import ProtocolError

from vestibule.net.codes import UNREACHABLE
from vestibule.net.grpc import Client, Stream, read_each, send_at_once
from vestibule.xds.messages import DeltaRequest, DeltaResponse
from vestibule.xds.patches import ACCEPTED, PatchReader
from vestibule.xds.protobuf import delta_request_to
from vestibule.xds.resources import ProxyKey

SERVICE: Final = ads_pb2.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"]
PROXY_SPIFFE_ID: Final = "vestibule-proxy-spiffe-id"
PROXY_INSTANCE_ID: Final = "vestibule-proxy-instance-id"


class AdsStream:
    """An open stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reader = PatchReader()

    async def send(self, request: DeltaRequest) -> None:
        """Send one request.  Raises: VST2300 when the stream is gone."""
        message = delta_request_to(request)
        try:
            if not send_at_once(self._stream, message.SerializeToString()):
                await self._stream.send_message(message)
        except ProtocolError as error:
            raise UNREACHABLE.error("the stream to the server is closed") from error

    def send_at_once(self, request: DeltaRequest) -> bool:
        """Send one request without waiting; False if that cannot be."""
        try:
            return send_at_once(self._stream, delta_request_to(request).SerializeToString())
        except ProtocolError:
            return False

    async def receive(self) -> DeltaResponse | None:
        """The next response; None when the server ended the stream.  Heartbeats are no changes, and left out.

        Raises: VST3112, also ``each``.
        """
        message = await self._stream.recv_message()
        return None if message is None else self._reader.read(message)

    async def each(self, take: Callable[[DeltaResponse], bool]) -> DeltaResponse | None:
        """Call ``take`` with every response as it comes; returns the first of which it says False twice.

        None when the server ended the stream.
        """
        message = await read_each(self._stream, lambda each: take(self._reader.read(each)))
        return None if message is None else self._reader.read(message)


class AdsCalls:
    """Opens streams on a channel to the server."""

    def __init__(self, channel: Channel) -> None:
        self._client = Client(channel, SERVICE)

    @asynccontextmanager
    async def open(self, proxy: ProxyKey) -> AsyncIterator[AdsStream]:
        """A stream for one proxy, until the block is left.  Raises: the server's errors; VST2300."""
        metadata = {
            PROXY_SPIFFE_ID: str(proxy.spiffe_id),
            PROXY_INSTANCE_ID: proxy.instance_id,
            ACCEPTED: "1",
        }
        async with self._client.stream("DeltaAggregatedResources", metadata=metadata) as stream:
            yield AdsStream(stream)
