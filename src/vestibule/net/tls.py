"""The server's TLS: client certificates optional, certificate and bundle replaced while it runs."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.net.grpc import Stream
from vestibule.spiffe import TrustBundle, X509Svid


class ServerTls:
    """An ``ssl.SSLContext`` for listening whose contents follow the newest SVID and bundle.

    TLS 1.3 only, ALPN ``h2``, no resumption of any kind (a resumed session would skip the check of the
    bundle).  A client may come without a certificate; one that does not chain up to the bundle is refused
    in the handshake.  Whoever answers RPCs verifies again (``net.caller.identify``).
    """

    def __init__(self, svid: X509Svid, bundle: TrustBundle) -> None:
        self._current = _context(svid, bundle)
        # A context of its own for listening: a handshake starts with it and moves to the current one.
        self.context = _context(svid, bundle)
        self.context.sni_callback = self._choose  # called without SNI, too

    def update(self, svid: X509Svid, bundle: TrustBundle) -> None:
        """From now on, handshakes use this certificate and this bundle; open connections go on."""
        self._current = _context(svid, bundle)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = self._current


class _ServerContext(ssl.SSLContext):
    """Remembers which certificate it shows: the connections that it made are asked for it later."""

    leaf_sha256: bytes


def shown_certificate(stream: Stream) -> bytes:
    """SHA-256 of the certificate that we showed in the handshake of this call's connection; empty without TLS.

    As RFC 5929 has it (tls-server-end-point), always with SHA-256, which is what our certificates are signed with.
    """
    tls = stream.peer._transport.get_extra_info("ssl_object")
    context = tls.context if tls is not None else None
    return context.leaf_sha256 if isinstance(context, _ServerContext) else b""


class EndpointTls:
    """A context for serving the public: it shows the newest SVID and asks nobody for a certificate.

    TLS 1.2 and 1.3, as SPIFFE_Federation.md (section 5) wants of bundle endpoints; ALPN ``http/1.1``; no resumption.
    """

    def __init__(self, svid: X509Svid) -> None:
        self._current = _public_context(svid)
        self.context = _public_context(svid)
        self.context.sni_callback = self._choose  # called without SNI, too

    def update(self, svid: X509Svid) -> None:
        """From now on, handshakes use this certificate."""
        self._current = _public_context(svid)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = self._current


def _public_context(svid: X509Svid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_NONE
    load_svid(context, svid)
    return context


def _context(svid: X509Svid, bundle: TrustBundle) -> ssl.SSLContext:
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.leaf_sha256 = hashlib.sha256(svid.chain[0]).digest()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    trust(context, bundle.x509_authorities)
    load_svid(context, svid)
    return context


def trust(context: ssl.SSLContext, authorities: Sequence[bytes]) -> None:
    """Let a context trust these authorities (DER), and no others.

    OpenSSL keeps errors in a queue for each thread, and this call reports whatever is last in it, though it did its
    own work well: an error that somebody else forgot there, such as a PKCS#11 module in this process.  Reporting it
    empties the queue.
    """
    data = b"".join(authorities)
    try:
        context.load_verify_locations(cadata=data)
    except ssl.SSLError:
        context.load_verify_locations(cadata=data)


def client_context(svid: X509Svid | None, bundle: TrustBundle | None) -> ssl.SSLContext:
    """For calling a server: with ``svid`` as client certificate, if any; trusting ``bundle`` only.

    A server's name is its SPIFFE ID, which whoever connects verifies; no host name is looked at.  Without a
    bundle *nothing* is verified: that is only for fetching a bundle that is then checked by other means.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_TICKET
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if bundle is None else ssl.CERT_REQUIRED
    if bundle is not None and bundle.x509_authorities:
        trust(context, bundle.x509_authorities)
    if svid is not None:
        load_svid(context, svid)
    return context


def load_svid(context: ssl.SSLContext, svid: X509Svid) -> None:
    """Let ``context`` show this certificate; its key never touches a disk."""
    with _pem_file(svid) as path:
        context.load_cert_chain(path)


@contextmanager
def _pem_file(svid: X509Svid) -> Iterator[str]:
    """The SVID as a file, which is all that ``ssl`` takes; it lives in memory only and has no name."""
    key = load_der_private_key(svid.key, None)
    pem = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    pem += [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid.chain]
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, b"".join(pem))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
