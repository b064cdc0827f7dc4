"""Hosts outside: TLS servers with certificates of a public-style authority, good ones and bad ones."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from tests.e2e.mesh_lab import Seen
from tests.ports import free_port

from vestibule.intent.outside import HostPort


class PublicAuthority:
    """A root as browsers have them, and certificates for DNS names."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._root = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._root.public_bytes(Encoding.PEM).decode()

    def issue(self, directory: Path, *names: str, age: timedelta = timedelta(days=1)) -> tuple[Path, Path]:
        """A certificate of 90 days that was made ``age`` ago, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = datetime.now(UTC) - age
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(made)
            .not_valid_after(made + timedelta(days=90))
            .add_extension(x509.SubjectAlternativeName([_san(each) for each in names]), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        stem = directory / f"{certificate.serial_number:x}"
        chain, private = stem.with_suffix(".crt"), stem.with_suffix(".key")
        chain.write_bytes(certificate.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, private


def _san(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Outsider:
    """An HTTP/1.1 server somewhere on the Internet, with or without TLS, that remembers what it was asked."""

    files: tuple[Path, Path] | None = None
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    answer: bytes = b""
    silent: bool = False
    http2: bool = False
    """Whether it speaks HTTP/2 alone; its pseudo headers are then seen as headers."""
    seen: list[Seen] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    """Which server names clients asked for."""
    asked_for_certificates: int = 0
    port: int = field(default_factory=free_port)
    _server: asyncio.Server | None = None

    @property
    def place(self) -> HostPort:
        return HostPort(host="127.0.0.1", port=self.port)

    async def start(self) -> Outsider:
        tls = None
        if self.files is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with warnings.catch_warnings():
                # Speaking what nobody should is what some of them are for.
                warnings.simplefilter("ignore", DeprecationWarning)
                tls.minimum_version, tls.maximum_version = self.oldest, self.newest
            tls.load_cert_chain(*self.files)
            tls.set_alpn_protocols(["h2" if self.http2 else "http/1.1"])
            # A client that has a certificate would show it.
            tls.verify_mode = ssl.CERT_OPTIONAL
            tls.load_verify_locations(self.files[0])
            tls.sni_callback = lambda _, name, __: self.names.append(name)
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port, ssl=tls)
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.http2:
                await self._talk_http2(reader, writer)
                return
            if self.answer:
                writer.write(self.answer + await reader.read(100))
                await writer.drain()
                return
            while head := await reader.readuntil(b"\r\n\r\n"):
                if self.silent:
                    continue
                await self._reply(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _talk_http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    headers = {str(name): str(value) for name, value in event.headers}
                    self.seen.append(Seen(headers[":method"], headers[":path"], headers, b""))
                    answer = [(":status", "200"), ("content-length", "0")]
                    connection.send_headers(event.stream_id, answer, end_stream=True)
            writer.write(connection.data_to_send())

    async def _reply(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append(Seen(method, path, headers, body))
        text = json.dumps({"path": path}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: outside\r\nx-envoy-overloaded: true\r\ncontent-length: %d\r\n\r\n%s"
            % (len(text), text)
        )
        await writer.drain()
