"""What a thief makes of certificates and keys that are not his."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from vestibule.net.tls import load_svid
from vestibule.pki import profiles
from vestibule.pki.chains import leaf_facts
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, X509Svid
from vestibule.testing import TestAuthority

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
HOUR = timedelta(hours=1)


def with_another_signature(der: bytes) -> bytes:
    """The same certificate with the other one of the two signatures that hold: nobody's key is needed for it."""
    certificate = x509.load_der_x509_certificate(der)
    r, s = decode_dss_signature(certificate.signature)
    signature = encode_dss_signature(r, _ORDER - s)
    parts = certificate.tbs_certificate_bytes + _ECDSA_WITH_SHA256 + _tlv(0x03, b"\0" + signature)
    made = _tlv(0x30, parts)
    assert made != der
    return made


def _tlv(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body


class Signer:
    """A signing certificate below another one, with its key: to be stolen, or made by who stole the one above."""

    def __init__(self, above: Signer | TestAuthority, path_length: int | None = None) -> None:
        self.key: EllipticCurvePrivateKey = generate_key()
        assert isinstance(self.key.curve, SECP256R1)
        valid = profiles.lifetime(datetime.now(UTC), 12 * HOUR, above.issuer.not_after)
        builder = profiles.intermediate_ca(self.key.public_key(), valid, above.issuer, path_length)
        self.certificate = builder.sign(above.key, SHA256()).public_bytes(Encoding.DER)
        self.issuer: profiles.Issuer = profiles.Issuer.of(self.certificate, above.issuer.trust_domain)
        self.chain: tuple[bytes, ...] = (
            self.certificate,
            *(above.chain if isinstance(above, Signer) else ()),
        )

    @property
    def serial(self) -> int:
        return x509.load_der_x509_certificate(self.certificate).serial_number


def issued(
    by: Signer | TestAuthority,
    spiffe_id: SpiffeId,
    *,
    serial: int | None = None,
    now: datetime | None = None,
    ttl: timedelta = HOUR,
) -> X509Svid:
    """An SVID with a serial number, and an instant, of one's choice."""
    key = generate_key()
    valid = profiles.lifetime(now or datetime.now(UTC), ttl, by.issuer.not_after)
    builder = profiles.svid(spiffe_id, key.public_key(), valid, by.issuer, serial=serial)
    signed = builder.sign(by.key, SHA256()).public_bytes(Encoding.DER)
    facts = leaf_facts(signed)
    return X509Svid(
        spiffe_id=spiffe_id,
        chain=(signed, *(by.chain if isinstance(by, Signer) else ())),
        key=key_to_pkcs8(key),
        serial=int(facts.serial),
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


class Impostor:
    """A server of the thief's own, HTTP/2 over TLS, that answers every request as if it were the callee."""

    def __init__(self, svid: X509Svid) -> None:
        self.svid = svid
        self.asked: list[str] = []
        self.connections = 0
        self._servers: list[asyncio.Server] = []

    async def listen(self, requests: Address, connections: Address) -> None:
        for address, talk in ((requests, self._talk), (connections, self._echo)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols(["h2"])
            load_svid(context, self.svid)
            server = await asyncio.start_server(talk, address.host, address.port, ssl=context)
            self._servers.append(server)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        try:
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        self.asked.append(dict(event.headers or [])[b":path"].decode())
                        answer = [(":status", "200"), ("content-length", "6")]
                        connection.send_headers(event.stream_id, answer)
                        connection.send_data(event.stream_id, b"stolen", end_stream=True)
                writer.write(connection.data_to_send())
        except OSError:
            pass
        finally:
            writer.close()
