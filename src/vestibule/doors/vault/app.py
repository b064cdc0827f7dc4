"""Vault's HTTP dialect: requests are parsed, answered by the pipeline, and written in Vault's envelope.

One ASGI function without middleware and without a router: what a read costs is mostly this.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl
from uuid import uuid4

from vestibule.audit import Audit, AuditEvent
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.doors.vault.auth import JWT_LOGIN
from vestibule.doors.vault.codes import BAD_REQUEST, METHOD_REFUSED, TOO_LARGE
from vestibule.doors.vault.crowds import Crowds
from vestibule.doors.vault.envelope import envelope, is_empty, wrapped_envelope
from vestibule.doors.vault.fields import duration
from vestibule.doors.vault.operations import Answer, Caller, VaultRequest
from vestibule.doors.vault.paths import path_of
from vestibule.doors.vault.pipeline import Handler
from vestibule.doors.vault.token_hashes import Hashed, no_hash, of_header
from vestibule.envoy.platform import MAX_REQUEST_BYTES
from vestibule.errors import Kind, VestibuleError
from vestibule.net.codes import INTERNAL
from vestibule.spiffe import SpiffeId

STATUS_OF_KIND: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.ALREADY_EXISTS: 400,
    Kind.UNAUTHENTICATED: 403,
    Kind.DENIED: 403,
    Kind.PRECONDITION: 400,
    Kind.EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.UNIMPLEMENTED: 405,
    Kind.INTERNAL: 500,
}
"""Vault's own: a failed check-and-set is 400, an unknown caller 403."""

_METHODS: Final = {
    "GET": "GET",
    "HEAD": "GET",
    "LIST": "LIST",
    "POST": "POST",
    "PUT": "POST",
    "PATCH": "PATCH",
    "DELETE": "DELETE",
}
_WITH_BODY: Final = frozenset({"POST", "PATCH", "DELETE"})
_CERTIFICATE: Final = b"x-forwarded-client-cert"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_MOST_QUERY: Final = 32
LARGE: Final = 64 * 1024
"""Bytes of a body: of larger ones only some are in memory at a time, which may take fifty times as much once parsed."""
MOST_LARGE: Final = 16
NOBODY: Final = "unknown"
"""Who asks, in records, where that is not known."""
_LONGEST_TOLD: Final = 512
_DIGITS: Final = 18
_DEEPEST: Final = "the body is nested too deeply"
_ROOT_NAMESPACES: Final = frozenset({b"", b"root", b"/", b"root/"})

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_log = logging.getLogger(__name__)


class Callers(Protocol):
    """Who asks (``callers.Callers``)."""

    async def of(self, path: str, body: Mapping[str, Any], mtls: SpiffeId | None, token: str) -> Caller:
        """``mtls`` is the connection's identity.  Raises: errors of kind UNAUTHENTICATED or DENIED."""
        ...


class Connected:
    """The connection's identity and nothing else, where there are no tokens."""

    async def of(self, path: str, body: Mapping[str, Any], mtls: SpiffeId | None, token: str) -> Caller:
        """Raises: VST5201."""
        del path, body, token
        if mtls is None:
            raise NO_CALLER.error("there is no client certificate")
        return Caller(spiffe_id=mtls)


Identify = Callable[[bytes], SpiffeId]
"""The caller by the header that Envoy sets.  Raises: VST5201."""

WITHOUT_TOKEN: Final = frozenset({"sys/health", "sys/seal-status", "sys/init", "sys/unseal"})
"""What has to work while nobody's token can be read."""


class VaultApp:
    """The ASGI app.  It believes its headers: it must be served to the platform's Envoy alone."""

    def __init__(
        self,
        handle: Handler,
        identify: Identify,
        callers: Callers | None = None,
        audit: Audit | None = None,
        hashed: Hashed = no_hash,
    ) -> None:
        """``audit`` is told of requests that are turned away before ``handle`` hears of them, with tokens' hashes."""
        self._handle = handle
        self._identify = identify
        self._callers = callers or Connected()
        self._audit = audit
        self._hashed = hashed
        self._large = asyncio.Semaphore(MOST_LARGE)
        self._crowds = Crowds()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        head = _Head(scope["headers"])
        bare = scope["method"] == "HEAD"
        try:
            status, body = await self._answer(scope, head, receive)
        except VestibuleError as error:
            status, body = status_of(error), _errors(error)
        except Exception:  # noqa: BLE001 - a bug is told to the log, and to the caller as one
            _log.exception("request %s failed", head.request_id)
            status, body = 500, _errors(INTERNAL.error("the request failed"))
        headers = [_NO_STORE, (b"content-length", b"%d" % len(body))]
        if body:
            headers.append(_JSON)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if bare else body})

    async def _answer(self, scope: Mapping[str, Any], head: _Head, receive: Receive) -> tuple[int, bytes]:
        try:
            who = self._connected(head)
        except VestibuleError as error:
            await self._turned_away(scope, head, error)
            raise
        # Before anything is read of what is sent, and without a record: else a crowd would only fill the log.
        with self._crowds.place(who, large=head.is_large):
            if not head.is_large:
                return await self._answered(scope, head, receive)
            async with self._large:
                return await self._answered(scope, head, receive)

    async def _answered(self, scope: Mapping[str, Any], head: _Head, receive: Receive) -> tuple[int, bytes]:
        try:
            request = await self._request(scope, head, receive)
        except VestibuleError as error:
            await self._turned_away(scope, head, error)
            raise
        answer, wrapped = await self._handle(request)
        return written(answer, wrapped, request.request_id)

    async def _request(self, scope: Mapping[str, Any], head: _Head, receive: Receive) -> VaultRequest:
        method = _METHODS.get(scope["method"])
        if method is None:
            raise METHOD_REFUSED.error(f"the method {scope['method'][:20]!r} is not served")
        if head.twice:
            # Neither of the two counts, and least of all for who asks.
            raise BAD_REQUEST.error("a header that matters is there twice")
        path = path_of(scope["raw_path"])
        query = _query(scope["query_string"])
        if method == "GET" and query.get("list", "").lower() in ("true", "1"):
            method = "LIST"
        if head.namespace not in _ROOT_NAMESPACES:
            raise BAD_REQUEST.error("there are no namespaces here", advice="Leave X-Vault-Namespace out.")
        body: Mapping[str, Any] = {}
        if method in _WITH_BODY:
            await self._known(head, path)  # before anything is read of what is sent
            body = await _body(head, receive)

        async def caller() -> Caller:
            mtls = self._connected(head)
            # Who came without a certificate is known by the token or not at all.
            token = "" if path in WITHOUT_TOKEN and mtls is not None else head.token
            return await self._callers.of(path, body, mtls, token)

        return VaultRequest(
            method=method,
            path=path,
            caller=await caller(),
            query=query,
            body=body,
            wrap_ttl=_wrap_ttl(head.wrap_ttl),
            token="" if path in WITHOUT_TOKEN else head.token,
            request_id=head.request_id,
            caller_now=caller,
        )

    async def _known(self, head: _Head, path: str) -> None:
        """Strangers' bodies are not read; but for the login, which proves by its body who it is, and is short."""
        if self._connected(head) is not None:
            return
        if path != JWT_LOGIN:
            await self._callers.of(path, {}, None, head.token)
        elif head.is_large:
            raise TOO_LARGE.error(f"a login has at most {LARGE} bytes")

    def _connected(self, head: _Head) -> SpiffeId | None:
        return self._identify(head.certificate) if head.certificate else None

    async def _turned_away(self, scope: Mapping[str, Any], head: _Head, error: VestibuleError) -> None:
        """Put on record what has come to nothing, as far as it is known what it was."""
        if self._audit is None:
            return
        try:
            actor = str(self._connected(head) or NOBODY)
        except VestibuleError:
            actor = NOBODY
        path = scope["raw_path"].decode("ascii", "backslashreplace")
        event = AuditEvent(
            actor=actor,
            action="secret.request",
            subject=path[:_LONGEST_TOLD],
            outcome="refused",
            details={
                "request_id": head.request_id,
                "method": scope["method"][:20],
                "code": error.code.code,
                "why": error.message[:_LONGEST_TOLD],
                **of_header(head.token, self._hashed),
            },
        )
        await self._audit.record([event])


class _Head:
    """The headers that matter, each at most once."""

    __slots__ = ("certificate", "is_large", "length", "namespace", "request_id", "token", "twice", "wrap_ttl")

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        found: dict[bytes, bytes] = {}
        twice: set[bytes] = set()
        for name, value in headers:
            if name in _WANTED:
                if name in found:
                    twice.add(name)
                found[name] = value
        get = found.get
        self.twice = bool(twice)
        self.certificate = b"" if _CERTIFICATE in twice else get(_CERTIFICATE, b"")
        bearer = get(b"authorization", b"")
        token = get(b"x-vault-token") or (bearer[7:] if bearer[:7].lower() == b"bearer " else b"")
        self.token = token.decode("latin-1")
        self.wrap_ttl = get(b"x-vault-wrap-ttl", b"")
        self.namespace = get(b"x-vault-namespace", b"")
        self.length = get(b"content-length", b"")
        self.is_large = b"transfer-encoding" in found or (
            self.length.isdigit() and int(self.length[:_DIGITS]) > LARGE
        )
        sent = get(b"x-request-id", b"")
        self.request_id = sent.decode("ascii") if _REQUEST_ID.fullmatch(sent) else str(uuid4())


_WANTED: Final = frozenset(
    {
        _CERTIFICATE,
        b"x-vault-token",
        b"authorization",
        b"x-vault-wrap-ttl",
        b"x-vault-namespace",
        b"content-length",
        b"transfer-encoding",
        b"x-request-id",
    }
)


def status_of(error: VestibuleError) -> int:
    """The HTTP status of an error."""
    return 413 if error.code is TOO_LARGE else STATUS_OF_KIND[error.code.kind]


def written(answer: Answer, wrapped: Mapping[str, Any] | None, request_id: str) -> tuple[int, bytes]:
    """The status and the body: Vault's envelope, or what stands in its place."""
    if wrapped is not None:
        return 200, _dumped(wrapped_envelope(wrapped, request_id))
    if answer.top is not None:
        return answer.status or 200, _dumped(answer.top)
    if is_empty(answer) and not answer.warnings:
        # Clients take an error without a word for "not there".
        return (answer.status, _dumped({"errors": []})) if answer.status >= 400 else (204, b"")
    return answer.status or 200, _dumped(envelope(answer, request_id))


def _errors(error: VestibuleError) -> bytes:
    return _dumped({"errors": [f"{error.code.code} {error.message}"]})


def _dumped(document: Any) -> bytes:
    return _encode(document).encode("ascii")


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def _query(text: bytes) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_QUERY, errors="strict"
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise BAD_REQUEST.error("the query cannot be read") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BAD_REQUEST.error("a part of the query is there twice")
    return found


async def _body(head: _Head, receive: Receive) -> Mapping[str, Any]:
    """The JSON object that was sent; nothing is an empty one.  Raises: VST5203, VST5204."""
    if head.length.isdigit() and (length := int(head.length[:_DIGITS])) > MAX_REQUEST_BYTES:
        raise TOO_LARGE.error(f"a body of {length} bytes; {MAX_REQUEST_BYTES} is the limit")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BAD_REQUEST.error("the client left")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            raise TOO_LARGE.error(f"a body of more than {MAX_REQUEST_BYTES} bytes")
        parts.append(part)
        if not message.get("more_body"):
            break
    return object_of(b"".join(parts))


def object_of(data: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; nothing is an empty one.  Raises: VST5203."""
    if not data.strip():
        return {}
    try:
        document = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise BAD_REQUEST.error(_DEEPEST) from None
    except ValueError:
        # What the parser says quotes the body, which may be a secret.
        raise BAD_REQUEST.error("the body is not JSON, or not unambiguous JSON") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BAD_REQUEST.error("the body is not a JSON object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values of one name, readers choose differently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("twice")
    return found


def _no_constant(_name: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _wrap_ttl(value: bytes) -> timedelta | None:
    if not value:
        return None
    ttl = duration({"X-Vault-Wrap-TTL": value.decode("latin-1")}, "X-Vault-Wrap-TTL")
    if not ttl:
        raise BAD_REQUEST.error("X-Vault-Wrap-TTL is no time")
    return ttl
