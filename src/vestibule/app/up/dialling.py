"""Clients that the proofs play: one connection each, which never reconnects, retries or forgives.

What such a client saw, it saw on one TCP connection; a proof about open connections needs exactly that.
Everything here blocks, with a deadline, and is run in threads.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.app.up.edges import Request
from vestibule.net.peer_chains import peer_chain
from vestibule.pki.chains import LeafFacts, leaf_facts, verify_x509_svid
from vestibule.records import Address
from vestibule.spiffe import TrustBundle, X509Svid

TIMEOUT: Final = 5.0
"""Seconds for connecting, for a handshake, and for each read of an answer."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class NoAnswer(Exception):  # noqa: N818 - it reads as what it says
    """The connection gave no HTTP answer; the text says what happened instead.

    ``silence`` means that nothing happened at all: neither an answer nor a refusal.
    """

    def __init__(self, what: str, *, silence: bool = False) -> None:
        super().__init__(what)
        self.silence = silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer.  Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def document(self) -> Mapping[str, Any]:
        """The body as a JSON object; empty where it is none."""
        try:
            parsed = json.loads(self.body)
        except ValueError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    def __str__(self) -> str:
        text = self.body[:200].decode(errors="replace").strip()
        return f"{self.status} {text}".strip()


class Connection:
    """One connection on which requests are asked one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._http = http.client.HTTPConnection("unused", timeout=TIMEOUT)
        self._http.sock = sock
        # Without this, http.client would quietly connect anew after the peer closed.
        self._http.auto_open = 0

    def ask(
        self,
        host: str,
        request: Request,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its whole answer.  Raises: NoAnswer."""
        body = b"{}" if request.method in _WITH_BODY else None
        sent = {"Host": host, "User-Agent": "vestibule-up", **(headers or {})}
        if form is not None:
            body, sent["Content-Type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
        elif body is not None:
            sent["Content-Type"] = "application/json"
        try:
            self._http.request(request.method, request.path, body=body, headers=sent)
            response = self._http.getresponse()
            content = response.read()
        except http.client.NotConnected as error:
            raise NoAnswer("the peer had closed the connection after its last answer") from error
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(error) from error
        known = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=known, body=content)

    def close(self) -> None:
        self._http.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def dial(address: Address) -> socket.socket:
    """A plain connection to a TCP port or Unix socket.  Raises: NoAnswer."""
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address.path or (address.host, address.port))
    except OSError as error:
        sock.close()
        raise _no_answer(error, f"cannot connect to {address}: ") from error
    return sock


def _family(address: Address) -> int:
    if address.path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def ask(address: Address, host: str, request: Request, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own.  Raises: NoAnswer."""
    with Connection(dial(address)) as connection:
        return connection.ask(host, request, headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A completed TLS handshake: the connection, and the certificates that the server showed."""

    connection: Connection
    chain: tuple[bytes, ...]

    def verified(self, bundle: TrustBundle, now: datetime) -> LeafFacts:
        """What the server's certificate says, once its chain holds against the bundle.  Raises: VST10nn."""
        verify_x509_svid(self.chain, bundle, now)
        return leaf_facts(self.chain[0])


def dial_tls(address: Address, svid: X509Svid | None) -> Handshake:
    """A TLS connection that shows ``svid``, and takes whatever certificate the server has: the caller judges it.

    With TLS 1.3 a server that refuses our certificate says so only after this returned.  Raises: NoAnswer.
    """
    sock = dial(address)
    try:
        tls = client_context(svid).wrap_socket(sock)
    except (OSError, ValueError) as error:
        sock.close()
        raise _no_answer(error, "no TLS handshake: ") from error
    return Handshake(connection=Connection(tls), chain=peer_chain(cast(ssl.SSLObject, tls)))


def client_context(svid: X509Svid | None) -> ssl.SSLContext:
    """TLS as a sidecar would speak it to another, except that nothing is verified here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if svid is not None:
        _load(context, svid)
    return context


def server_context(svid: X509Svid) -> ssl.SSLContext:
    """TLS as a workload with this SVID would serve it to a sidecar; client certificates are not asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    _load(context, svid)
    return context


def _load(context: ssl.SSLContext, svid: X509Svid) -> None:
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


def _no_answer(error: Exception, doing: str = "") -> NoAnswer:
    return NoAnswer(f"{doing}{_what_happened(error)}", silence=isinstance(error, TimeoutError))


def _what_happened(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.strerror or type(error).__name__}"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "the connection was closed before an answer came"
    if isinstance(error, http.client.BadStatusLine):
        return "what came back is not HTTP"
    strerror = getattr(error, "strerror", None)
    return str(strerror or str(error) or type(error).__name__)
