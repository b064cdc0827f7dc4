"""The token service's HTTP: requests are parsed, the client is found, the service is asked, and all of it is on record.

1. The path and the method: what is shown to everybody is answered at once.
2. A client's certificate, and its place among its other requests, before anything is read of what is sent.
3. The form.
4. The client: by its certificate, by an assertion, or by both.
5. The service decides, and does it.
6. It is put on record.  Without a record there is no answer; what is refused is on record, too.

One ASGI function without middleware and without a router.  It believes its headers: it must be served to the platform's
Envoy alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from vestibule.doors.oauth.clients import Claimed, Clients
from vestibule.doors.oauth.codes import MALFORMED, METHOD_REFUSED, NO_SUCH_ENDPOINT, TOO_MANY_AT_ONCE
from vestibule.doors.oauth.forms import Form, Receive, form_of
from vestibule.doors.oauth.grants import Grants, answer_of, verb_of
from vestibule.doors.oauth.metadata import (
    INTROSPECT,
    JWKS,
    METADATA,
    OPENAPI,
    OPENID,
    REVOKE,
    TOKEN,
    Metadata,
)
from vestibule.doors.oauth.openapi import openapi
from vestibule.doors.oauth.records import REQUEST, Records
from vestibule.doors.oauth.replies import Header, Reply, is_ours, refused, shown, told
from vestibule.doors.oauth.requests import Head
from vestibule.doors.platform.crowds import Crowd
from vestibule.errors import VestibuleError
from vestibule.net.codes import INTERNAL
from vestibule.tokens.codes import NO_SIGNING_KEY
from vestibule.tokens.ports import Client
from vestibule.tokens.service import TokenService

MOST_EACH: Final = 400
"""Requests of one identity that are under way at a time; of all clients without certificate together, too."""

STRANGERS_SECONDS: Final = 10.0
"""In which the form of a client without certificate has to be there: those who dawdle take the places of others."""

Send = Callable[[Any], Awaitable[None]]
Counts = Callable[[str, str, float], None]
"""Hears of each request: what was asked for, what came of it (``ok``, ``refused``, ``error``), its seconds."""

_POST: Final[Header] = (b"allow", b"POST")
_GET: Final[Header] = (b"allow", b"GET, HEAD")
_log = logging.getLogger(__name__)


def _count_nothing(_verb: str, _outcome: str, _seconds: float) -> None:
    """Where nobody wants to know."""


class OAuthApp:
    """The ASGI app."""

    def __init__(
        self,
        service: TokenService,
        clients: Clients,
        metadata: Metadata,
        records: Records,
        counts: Counts = _count_nothing,
    ) -> None:
        self._service = service
        self._grants = Grants(service)
        self._clients = clients
        self._metadata = metadata
        self._records = records
        self._counts = counts
        self._said = ""
        self._crowd = Crowd(MOST_EACH, TOO_MANY_AT_ONCE)
        self._asked: Mapping[str, Callable[[_Request], Awaitable[Reply]]] = {
            TOKEN: self._token,
            INTROSPECT: self._introspect,
            REVOKE: self._revoke,
        }
        self._shown: Mapping[str, Callable[[str], str]] = {
            JWKS: self._keys,
            METADATA: lambda host: metadata.document(METADATA, host),
            OPENID: lambda host: metadata.document(OPENID, host),
            OPENAPI: lambda _host: openapi(metadata.issuer),
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        head = Head(scope["headers"])
        try:
            reply = await self._answer(scope, head, receive)
        except VestibuleError as error:
            self._tell(error, head.request_id)
            reply = refused(error, head.request_id)
        except Exception:  # noqa: BLE001 - a bug is told to the log, and to the client as one
            _log.exception("request %s failed", head.request_id)
            reply = refused(INTERNAL.error("the request failed"), head.request_id)
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        bare = scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if bare else reply.body})

    def _tell(self, error: VestibuleError, request_id: str) -> None:
        """Operators read what clients are not told: once, however many ask."""
        if is_ours(error) and (said := str(error)) != self._said:
            self._said = said
            _log.warning("request %s and those after it: %s (%s)", request_id, said, error.advice)

    async def _answer(self, scope: Mapping[str, Any], head: Head, receive: Receive) -> Reply:
        path, method = scope["path"], scope["method"]  # 1
        if (ask := self._asked.get(path)) is not None:
            if method != "POST":
                return _not_by(method, head, _POST)
            return await self._recorded(_Request(head, scope["query_string"], receive), ask)
        if (show := self._shown.get(path)) is None:
            raise NO_SUCH_ENDPOINT.error("there is nothing at this path")
        if method not in ("GET", "HEAD"):
            return _not_by(method, head, _GET)
        return shown(show(head.host))

    async def _recorded(self, request: _Request, ask: Callable[[_Request], Awaitable[Reply]]) -> Reply:
        began = time.perf_counter()
        try:
            known = self._clients.connected(request.head.certificate)  # 2
            request.client = known
            with self._crowd.place(None if known is None else known.spiffe_id):
                reply = await self._done(request, ask)
        except VestibuleError as error:
            self._counts(request.verb, "refused", time.perf_counter() - began)
            if error.code is not TOO_MANY_AT_ONCE:  # else a crowd would only fill the log
                await self._records.refused(
                    request.verb, request.client, request.form, request.head.request_id, error
                )
            raise
        except Exception:
            self._counts(request.verb, "error", time.perf_counter() - began)
            raise
        self._counts(request.verb, "ok", time.perf_counter() - began)
        return reply

    async def _done(self, request: _Request, ask: Callable[[_Request], Awaitable[Reply]]) -> Reply:
        head = request.head
        if head.twice:
            raise MALFORMED.error(f"the header {head.twice} is there twice")
        if request.query:
            raise MALFORMED.error("parameters belong into the body, where no log has them")
        try:
            async with asyncio.timeout(STRANGERS_SECONDS if request.client is None else None):
                request.form = await form_of(head.content_type, head.length, request.receive)  # 3
        except TimeoutError:
            raise MALFORMED.error("the form did not come in time") from None
        claimed = Claimed(head.certificate, head.authorization, request.form)
        request.client = await self._clients.of(claimed)  # 4
        return await ask(request)

    async def _token(self, request: _Request) -> Reply:
        """RFC 6749, section 3.2."""
        client, form = request.known()
        request.verb = verb_of(form)
        minted = await self._grants.minted(request.verb, client, form)  # 5
        await self._records.minted(request.verb, client, minted, form, request.head.request_id)  # 6
        return told(answer_of(request.verb, minted))

    async def _introspect(self, request: _Request) -> Reply:
        """RFC 7662, section 2."""
        request.verb = "introspect"
        client, form = request.known()
        found = await self._service.inspect(client, form.needed("token"))
        subject = found.get("aud", "")
        await self._records.done(
            request.verb,
            client,
            subject if isinstance(subject, str) else " ".join(subject),
            form,
            request.head.request_id,
            active=bool(found.get("active")),
            jti=found.get("jti", ""),
        )
        return told(found)

    async def _revoke(self, request: _Request) -> Reply:
        """RFC 7009, section 2: 200 also for what is none, or counts no longer."""
        request.verb = "revoke"
        client, form = request.known()
        entry = await self._service.revoke(client, form.needed("token"))
        await self._records.done(
            request.verb,
            client,
            "" if entry is None else entry.value,
            form,
            request.head.request_id,
            revoked=entry is not None,
        )
        return told({})

    def _keys(self, _host: str) -> str:
        if not (keys := self._service.key_source.now):
            raise NO_SIGNING_KEY.error("there are no keys yet: the secret manager is sealed")
        return keys


class _Request:
    """One request to an endpoint that asks who is there, as far as it is known."""

    __slots__ = ("client", "form", "head", "query", "receive", "verb")

    def __init__(self, head: Head, query: bytes, receive: Receive) -> None:
        self.head = head
        self.query = query
        self.receive = receive
        self.verb = REQUEST
        self.client: Client | None = None
        self.form: Form | None = None

    def known(self) -> tuple[Client, Form]:
        """After steps 3 and 4."""
        assert self.client is not None
        assert self.form is not None
        return self.client, self.form


def _not_by(method: str, head: Head, allow: Header) -> Reply:
    error = METHOD_REFUSED.error(f"the method {method[:20]!r} is not served here")
    return refused(error, head.request_id, allow)
