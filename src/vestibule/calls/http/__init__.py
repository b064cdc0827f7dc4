"""One HTTP/1.1 exchange at a time, for attestors: bounded in time and size, and never redirected.

A new connection per exchange, since these calls are rare; what is asked often is remembered by who asks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from vestibule.calls.http.codes import ADDRESS_NOT_PERMITTED, HTTP_ANSWER, HTTP_UNREACHABLE
from vestibule.errors import VestibuleError

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Permit: TypeAlias = Callable[[IpAddress], bool]
MAX_ADDRESSES: Final = 8
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer.  ``headers`` are by lower-case name; of several with one name the last."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer:
    """A server that can be asked: on a Unix socket, or at an address.

    ``tls`` gives the context for each connection, so that CA files may be replaced; ``name`` is what its
    certificate is checked against, and the Host header (default: the host).  ``permit`` judges every address that
    the host's name has *before* it is connected to, and the connection goes to the very address that was judged.
    With ``connected`` the one exchange goes over that socket, which is then closed.
    """

    host: str = "localhost"
    port: int = 80
    unix: Path | None = None
    tls: Callable[[], ssl.SSLContext] | None = None
    name: str = ""
    permit: Permit | None = None
    verify: Callable[[ssl.SSLObject], None] | None = None
    limit: int = 1024 * 1024
    seconds: float = 5.0
    connected: socket.socket | None = None

    async def __call__(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Ask once.  Raises: VST2340 (not there, not trusted, too late), VST2341 (not HTTP), VST2342 (address)."""
        import h11  # here, so that its error codes can be known where only clients are installed

        try:
            async with asyncio.timeout(self.seconds):
                reader, writer = await self._connect()
                try:
                    if self.verify is not None:
                        self.verify(writer.get_extra_info("ssl_object"))
                    return await self._exchange(reader, writer, method, target, headers or {}, body)
                finally:
                    writer.transport.abort()
        except TimeoutError as error:
            raise HTTP_UNREACHABLE.error(f"{self} does not answer within {self.seconds:g} s") from error
        except (OSError, ssl.CertificateError) as error:
            reason = getattr(error, "verify_message", None) or str(error)
            raise HTTP_UNREACHABLE.error(f"{self} cannot be reached: {reason}") from error
        except h11.ProtocolError as error:
            raise HTTP_ANSWER.error(f"{self} does not speak HTTP/1.1: {error}") from error

    def __str__(self) -> str:
        return str(self.unix) if self.unix is not None else f"{self.host}:{self.port}"

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.connected is not None:
            is_unix = self.connected.family is socket.AF_UNIX
            return await (asyncio.open_unix_connection if is_unix else asyncio.open_connection)(
                sock=self.connected
            )
        if self.unix is not None:
            return await asyncio.open_unix_connection(os.fspath(self.unix))
        context = self.tls() if self.tls is not None else None
        name = (self.name or self.host) if context is not None else None
        host = self.host if self.permit is None else await self._judged_address(self.permit)
        return await asyncio.open_connection(host, self.port, ssl=context, server_hostname=name)

    async def _judged_address(self, permit: Permit) -> str:
        """An address of the host, all of which are permitted.  Raises: VST2342."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [plain(ipaddress.ip_address(each[4][0])) for each in found[:MAX_ADDRESSES]]
        for address in addresses:
            if not permit(address):
                raise ADDRESS_NOT_PERMITTED.error(f"{self.host} leads to {address}, which is not called")
        return str(addresses[0])

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        import h11

        http = h11.Connection(h11.CLIENT)
        sent = {
            "Host": self.name or self.host,
            "Connection": "close",
            "Content-Length": str(len(body)),
            **headers,
        }
        request = h11.Request(method=method, target=target, headers=list(sent.items()))
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        status, received = 0, bytearray()
        heads: dict[str, str] = {}
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
                heads = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > self.limit:
                    raise self._too_much()
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status=status, body=bytes(received), headers=heads)
            elif isinstance(event, h11.ConnectionClosed):
                raise HTTP_ANSWER.error(f"{self} closed the connection without an answer")

    def _too_much(self) -> VestibuleError:
        return HTTP_ANSWER.error(f"{self} answers with more than {self.limit} bytes")


def plain(address: IpAddress) -> IpAddress:
    """The IPv4 address inside an IPv6 form of it (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if inner := address.ipv4_mapped or address.sixtofour:
            return inner
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_foreign_host(address: IpAddress) -> bool:
    """Whether an address may be another machine's: not this machine's, the link's or a cloud's metadata service."""
    address = plain(address)
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or any(address in network for network in _METADATA)
    )


# Where clouds tell a machine its secrets, besides the link's own addresses: AWS (IPv6), Alibaba, Oracle, Azure.
_METADATA: Final = (
    ipaddress.IPv6Network("fd00:ec2::/32"),
    ipaddress.IPv4Network("100.100.100.200/32"),
    ipaddress.IPv4Network("192.0.0.192/32"),
    ipaddress.IPv4Network("168.63.129.16/32"),
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
