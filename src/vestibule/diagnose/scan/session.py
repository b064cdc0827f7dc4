"""A handshake with an endpoint, and a question after it, watched closely.

pyOpenSSL over memory: it tells what ``ssl`` hides (whether a certificate was asked for, of which authorities, and which
alert came), and the sockets stay with asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from vestibule.diagnose.scan.wire import Flooded, Wire
from vestibule.pki.certificates import load_certificate
from vestibule.posture import printable

MOST_AUTHORITIES: Final = 100
MOST_CERTIFICATES: Final = 10
_ALERTS: Final = {
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    90: "user_canceled",
    112: "unrecognized_name",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}
NO_APPLICATION_PROTOCOL: Final = 120
_CLOSE_NOTIFY: Final = 0
_FATAL: Final = 2
_READ: Final = 64 * 1024


class Ending(Enum):
    """How a handshake ended, or what has happened after it."""

    DONE = "done"
    ALERT = "alert"
    CLOSED = "closed"
    STALLED = "stalled"
    FLOODED = "flooded"
    NONSENSE = "nonsense"
    """What came is not TLS, or breaks its rules."""


@dataclass(slots=True)
class Seen:
    """What a connection showed, filled while it goes on."""

    hello: bool = False
    """The endpoint sent a message of TLS."""
    requested: bool = False
    ticket: bool = False
    certificate: bool = False
    """The endpoint showed its certificate in this handshake, as it does unless it resumes a session."""
    alert: int = -1
    certificates: list[bytes] = field(default_factory=list)
    authorities: list[str] = field(default_factory=list)
    version: str = ""
    cipher: str = ""
    alpn: str = ""

    @property
    def alert_name(self) -> str:
        return _ALERTS.get(self.alert, f"alert {self.alert}")


def client_context(identity: tuple[tuple[bytes, ...], bytes] | None, alpn: bool = True) -> SSL.Context:
    """Takes what it gets: judging comes later.  ``identity`` is a chain (DER, leaf first) and its key (PKCS #8)."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_options(SSL.OP_LEGACY_SERVER_CONNECT)
    context.set_cipher_list(b"ALL:!aNULL:@SECLEVEL=0")
    if alpn:
        context.set_alpn_protos([b"h2", b"http/1.1"])
    if identity is not None:
        (leaf, *others), key = identity
        context.use_certificate(load_certificate(leaf))
        for each in others:
            context.add_extra_chain_cert(load_certificate(each))
        private: Any = load_der_private_key(key, None)
        context.use_privatekey(private)
    context.set_info_callback(_watch)
    return context


def _watch(connection: SSL.Connection, where: int, value: int) -> None:
    """OpenSSL tells each step (SSL_CTX_set_info_callback)."""
    seen: Seen = connection.get_app_data()
    if where & SSL.SSL_CB_READ_ALERT == SSL.SSL_CB_READ_ALERT:
        seen.hello = True
        if value >> 8 == _FATAL:
            seen.alert = value & 0xFF
        return
    step = connection.get_state_string()
    seen.hello = seen.hello or b"read server hello" in step
    seen.requested = seen.requested or b"read server certificate request" in step
    seen.certificate = seen.certificate or step.endswith(b"read server certificate")
    seen.ticket = seen.ticket or b"read server session ticket" in step


class Session:
    """TLS over one wire."""

    def __init__(
        self, wire: Wire, context: SSL.Context, server_name: str | None, before: SSL.Session | None = None
    ) -> None:
        """``before`` is a session that is to be resumed."""
        self.seen = Seen()
        self._wire = wire
        self._tls = SSL.Connection(context, None)
        self._tls.set_app_data(self.seen)
        self._tls.set_connect_state()
        if server_name:
            self._tls.set_tlsext_host_name(server_name.encode("ascii"))

        if before is not None:
            self._tls.set_session(before)

    def leave(self) -> SSL.Session | None:
        """What the endpoint might take in the place of certificates next time; nothing can be said after this."""
        # OpenSSL takes sessions for spoiled that did not end in order.
        self._tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return self._tls.get_session()

    async def shake_hands(self) -> Ending:
        """Until both sides are done, as far as the client can know: with TLS 1.3 a refusal may come later."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    await self._flush()
                    return self._noted(Ending.DONE)
                except SSL.WantReadError:
                    await self._flush()
                    if not self._take(await self._wire.receive()):
                        return self._noted(Ending.CLOSED)
        except SSL.Error:
            return self._noted(self._failure())
        except (OSError, Flooded) as error:
            return self._noted(_ending_of(error))

    async def watch(self, seconds: float) -> Ending | bytes:
        """Wait for what the endpoint says by itself: bytes, a refusal, or DONE when it stayed quiet.

        A ticket ends the wait: it is only given to clients that are let in.
        """
        said = await self._listen(seconds, lambda: self.seen.ticket)
        return Ending.DONE if said is Ending.STALLED else said

    async def send(self, data: bytes) -> None:
        """Raises: OSError."""
        try:
            self._tls.send(data)
            await self._flush()
        except SSL.Error as error:
            raise ConnectionError("TLS ended") from error

    async def receive(self, seconds: float) -> Ending | bytes:
        """Bytes; or how it ended, STALLED when nothing came in time."""
        return await self._listen(seconds, lambda: False)

    async def _listen(self, seconds: float, enough: Callable[[], bool]) -> Ending | bytes:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            while True:
                if (data := self._read()) is not None:
                    return data or Ending.CLOSED
                if enough() or (more := await self._wire.receive_within(max(end - loop.time(), 0))) is None:
                    return Ending.STALLED
                if not self._take(more):
                    return Ending.CLOSED
        except SSL.Error:
            return self._failure()
        except (OSError, Flooded) as error:
            return _ending_of(error)

    def _read(self) -> bytes | None:
        """What was decrypted; empty at the end, None when there is nothing yet.  Raises: SSL.Error."""
        try:
            return self._tls.recv(_READ)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""

    def _take(self, data: bytes) -> bool:
        if data:
            self._tls.bio_write(data)
        return bool(data)

    async def _flush(self) -> None:
        while True:
            try:
                await self._wire.send(self._tls.bio_read(_READ))
            except SSL.WantReadError:
                return

    def _failure(self) -> Ending:
        return Ending.ALERT if self.seen.alert > _CLOSE_NOTIFY else Ending.NONSENSE

    def _noted(self, ending: Ending) -> Ending:
        """Keep what the connection knows, whole handshake or not."""
        seen = self.seen
        if seen.hello and seen.alert != NO_APPLICATION_PROTOCOL:
            chain = self._tls.get_peer_cert_chain() or []
            seen.certificates = [_der(each) for each in chain[:MOST_CERTIFICATES]]
            if seen.requested:
                names = self._tls.get_client_ca_list()[:MOST_AUTHORITIES]
                seen.authorities = [_name(each) for each in names]
            seen.version = self._tls.get_protocol_version_name()
            seen.cipher = self._tls.get_cipher_name() or ""
            seen.alpn = printable(self._tls.get_alpn_proto_negotiated().decode("ascii", "replace"), 40)
        return ending


def _ending_of(error: OSError | Flooded) -> Ending:
    return Ending.FLOODED if isinstance(error, Flooded) else Ending.CLOSED


def _der(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _name(name: crypto.X509Name) -> str:
    parts = [f"{_text(key)}={_text(value)}" for key, value in reversed(name.get_components())]
    return printable(",".join(parts))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
