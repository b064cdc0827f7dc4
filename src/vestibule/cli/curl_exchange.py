"""One HTTP exchange for people: directly, with mutual TLS, or by way of a sidecar."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from vestibule.cli.codes import USAGE
from vestibule.sdk import Connection, connection_of
from vestibule.sdk.codes import NOT_REACHED
from vestibule.sdk.reasons import reason

CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked."""

    url: SplitResult
    method: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    seconds: float

    @property
    def target(self) -> str:
        return (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")

    @property
    def place(self) -> str:
        return self.url.netloc


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """The connection, where it is our own mutual TLS."""

    connection: Connection
    version: str
    cipher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came back, but for the body."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    secured: Secured | None
    connected: float
    """Seconds until the connection was there."""
    first: float
    """Seconds until the answer began."""
    body: Iterator[bytes]


def parse_url(text: str) -> SplitResult:
    """Raises: VST9100."""
    url = _read_url(text)
    if url is None or url.username is not None or any(not "!" <= each <= "~" for each in text):
        raise USAGE.error(
            f"{text[:200]!r} is no URL that can be called",
            advice="Write https://HOST:PORT/PATH, or http://SERVICE/PATH.",
        )
    return url


def _read_url(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        is_good = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        return None
    return url if is_good else None


@contextmanager
def exchange(asked: Asked, context: ssl.SSLContext | None, egress: str = "") -> Iterator[Answered]:
    """Ask, and have the answer for as long as the block is entered; blocks.

    With a ``context``, directly; otherwise in plain text by the sidecar at ``egress``.
    Raises: VST2433, and why a peer is refused.
    """
    began = time.monotonic()
    with closing(_connection(asked, context, egress)) as made:
        with _told(asked):
            made.connect()
            connected = time.monotonic() - began
            secured = _secured(made.sock)
            _send(made, asked, is_proxied=context is None)
            answer = made.getresponse()
        yield Answered(
            status=answer.status,
            reason=answer.reason,
            headers=tuple(answer.getheaders()),
            secured=secured,
            connected=connected,
            first=time.monotonic() - began,
            body=_chunks(answer, asked, began + asked.seconds),
        )


def _send(made: http.client.HTTPConnection, asked: Asked, *, is_proxied: bool) -> None:
    target = f"http://{asked.place}{asked.target}" if is_proxied else asked.target
    made.putrequest(asked.method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": asked.place, "Accept": "*/*", **_length(asked), **asked.headers}.items():
        made.putheader(name, value)
    made.endheaders(asked.body or None)


def _connection(asked: Asked, context: ssl.SSLContext | None, egress: str) -> http.client.HTTPConnection:
    host = asked.url.hostname or ""
    if context is not None:
        return http.client.HTTPSConnection(host, asked.url.port, timeout=asked.seconds, context=context)
    sidecar = urlsplit(egress)
    return http.client.HTTPConnection(sidecar.hostname or "", sidecar.port, timeout=asked.seconds)


def _length(asked: Asked) -> dict[str, str]:
    return (
        {"Content-Length": str(len(asked.body))}
        if asked.body or asked.method in ("POST", "PUT", "PATCH")
        else {}
    )


def _secured(sock: object) -> Secured | None:
    if not isinstance(sock, ssl.SSLSocket):
        return None
    cipher = sock.cipher()
    return Secured(
        connection=connection_of(sock), version=sock.version() or "", cipher=cipher[0] if cipher else ""
    )


def _chunks(answer: http.client.HTTPResponse, asked: Asked, until: float) -> Iterator[bytes]:
    while True:
        with _told(asked):
            chunk = answer.read1(CHUNK)
        if not chunk:
            return
        yield chunk
        if time.monotonic() > until:
            raise NOT_REACHED.error(f"{asked.place} did not end its answer within {asked.seconds:g} s")


@contextmanager
def _told(asked: Asked) -> Iterator[None]:
    """What goes wrong underneath, as an error with a code."""
    try:
        yield
    except TimeoutError as error:
        raise NOT_REACHED.error(f"{asked.place} does not answer within {asked.seconds:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        if (why := reason(error)) is not None:
            raise why from error
        raise NOT_REACHED.error(f"{asked.place} cannot be called: {_said(error)}") from error


def _said(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
