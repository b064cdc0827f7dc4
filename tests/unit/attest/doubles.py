"""Doubles of what attestors ask: processes, and HTTP servers that speak the protocol on real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONTAINER = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961"
OTHER = "34a2062fd26c805aa8cf814cdfe479322b791f80afb9ea4db02d50375df14b41"
POD = "2c48913c-b29f-11e7-9350-020968147796"


@dataclass
class FakeProcess:
    """A process of which only the control groups are known."""

    cgroup: bytes = b"0::/user.slice/user-1000.slice/session-3.scope\n"
    pid: int = 4711
    start_time: int = 1

    def check(self) -> None: ...
    def close(self) -> None: ...
    def parent_pid(self) -> int:
        return 1

    def status(self) -> Mapping[str, list[str]]:
        return {"Uid": ["1"] * 4, "Gid": ["1"] * 4}

    def read(self, name: str, limit: int) -> bytes:
        assert name == "cgroup"
        return self.cgroup[:limit]

    def link(self, name: str) -> str:
        raise PermissionError(13, "Permission denied")

    def open_executable(self) -> Any:
        raise PermissionError(13, "Permission denied")

    def executable_facts(self) -> tuple[int, int, int, int, int] | None:
        raise PermissionError(13, "Permission denied")


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


Reply = tuple[int, bytes]


@dataclass
class FakeHttp:
    """Answers by method and target; keeps what it was asked."""

    answers: dict[str, Reply | Callable[[Asked], Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    raw: bytes = b""
    """Sent instead of an answer, if set."""
    silent: bool = False
    port: int = 0

    def reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.target}", (404, b"not found"))
        return found(asked) if callable(found) else found

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        request, body = None, b""
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    if not (data := await reader.read(65536)) and request is None:
                        return
                    connection.receive_data(data)
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            assert request is not None
            if self.silent:
                await reader.read()
                return
            headers = {name.decode(): value.decode() for name, value in request.headers}
            status, answer = self.reply(
                Asked(request.method.decode(), request.target.decode(), headers, body)
            )
            if self.raw:
                writer.write(self.raw)
            else:
                location = [("Location", "/elsewhere")] if status in (301, 302) else []
                length = [("Content-Length", str(len(answer)))]
                response = h11.Response(status_code=status, headers=length + location)
                for part in (response, h11.Data(data=answer), h11.EndOfMessage()):
                    writer.write(connection.send(part) or b"")
            await writer.drain()
        except (ConnectionError, h11.ProtocolError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def on_unix(self, path: Path) -> AsyncIterator[Path]:
        server = await asyncio.start_unix_server(self.handle, path)
        try:
            yield path
        finally:
            server.close()

    @asynccontextmanager
    async def on_tcp(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
        server = await asyncio.start_server(self.handle, host, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self.port
        finally:
            server.close()


class WebAuthority:
    """A CA of the ordinary kind, for servers with DNS names."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._make("web authority", self.key, ca=True)

    def _make(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if ca:
            builder = builder.add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
            )
        else:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            builder = builder.add_extension(identifier, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def write(self, directory: Path) -> Path:
        path = directory / "web-ca.pem"
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def server_context(self, directory: Path, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = directory / "server.pem"
        pem.write_bytes(
            self._make(name, key, ca=False).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context
