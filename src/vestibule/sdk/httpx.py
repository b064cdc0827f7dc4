"""Mutual TLS for requests that are made with httpx, which is not in the base installation.

::

    transport = AsyncMtlsTransport(source, authorize_ids("spiffe://example.org/ns/prod/sa/payments"))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("https://payments.internal:8443/v1/charges")

A connection leaves the pool in time before one of its certificates ends (``vestibule.sdk.connections``); requests on it
end in peace, and the next one has another connection.  A request that a connection lost before anything was answered
is sent again, if it may be: nothing of it was sent, or twice means the same as once.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Final

import httpcore
import httpx

from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.clients import Source, client_lifetimes, plaintext_refused
from vestibule.sdk.connections import Lifetimes
from vestibule.sdk.outside import Outside, OutsideCall
from vestibule.sdk.pools import AsyncPool, Mtls, Pool
from vestibule.sdk.reasons import reason
from vestibule.sdk.tls import client_context

LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
"""As httpx has them, but for idle connections, which go a second before uvicorn would close them."""


class AsyncMtlsTransport(httpx.AsyncHTTPTransport):
    """For ``httpx.AsyncClient(transport=…)``: shows our SVID, and talks to peers that ``authorize`` wants.

    Names of hosts in URLs say where to connect, the SPIFFE ID says who is there.  ``outside`` names hosts that are
    called as everybody calls them, with the public authorities and without our certificate (``vestibule.sdk.outside``);
    ``outside_context`` replaces the public authorities.  ``lifetimes`` is how long connections are used.

    Requests raise ``httpx.ConnectError`` when the peer is refused, with a ``VestibuleError`` among its causes.
    """

    def __init__(
        self,
        source: Source,
        authorize: Authorizer,
        *,
        outside: Iterable[str] = (),
        outside_context: ssl.SSLContext | None = None,
        lifetimes: Lifetimes | None = None,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = LIMITS,
        retries: int = 0,
    ) -> None:
        """Raises: VST2432."""
        context = client_context(source, authorize)
        self._source = source
        self._outside = Outside.of(outside)
        self._public = (
            httpx.AsyncHTTPTransport(
                verify=outside_context or True, http2=http2, limits=limits, retries=retries
            )
            if self._outside.places
            else None
        )
        super().__init__(verify=context, http1=http1, http2=http2, limits=limits, retries=retries)
        mtls = Mtls(source, client_lifetimes(source, lifetimes), context, http1, http2, limits, retries)
        self._pool: httpcore.AsyncConnectionPool = AsyncPool(mtls)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: what httpx raises."""
        if self._public is not None and self._outside.has(_host(request), request.url.port):
            return await self._asked_outside(self._public, request)
        _check_scheme(request)
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError as error:
            raise error from (reason(error) or error.__cause__)

    async def _asked_outside(
        self, public: httpx.AsyncHTTPTransport, request: httpx.Request
    ) -> httpx.Response:
        _check_scheme(request)
        call = _outside_call(request)
        try:
            response = await public.handle_async_request(request)
        except BaseException as error:
            call.log(self._source, error)
            raise
        call.status = response.status_code
        call.log(self._source)
        return response

    async def aclose(self) -> None:
        await super().aclose()
        if self._public is not None:
            await self._public.aclose()

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()


class MtlsTransport(httpx.HTTPTransport):
    """The same for ``httpx.Client(transport=…)``, with a source that was entered by ``with``."""

    def __init__(
        self,
        source: Source,
        authorize: Authorizer,
        *,
        outside: Iterable[str] = (),
        outside_context: ssl.SSLContext | None = None,
        lifetimes: Lifetimes | None = None,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = LIMITS,
        retries: int = 0,
    ) -> None:
        """Raises: VST2432."""
        context = client_context(source, authorize)
        self._source = source
        self._outside = Outside.of(outside)
        self._public = (
            httpx.HTTPTransport(verify=outside_context or True, http2=http2, limits=limits, retries=retries)
            if self._outside.places
            else None
        )
        super().__init__(verify=context, http1=http1, http2=http2, limits=limits, retries=retries)
        mtls = Mtls(source, client_lifetimes(source, lifetimes), context, http1, http2, limits, retries)
        self._pool: httpcore.ConnectionPool = Pool(mtls)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: what httpx raises."""
        if self._public is not None and self._outside.has(_host(request), request.url.port):
            return self._asked_outside(self._public, request)
        _check_scheme(request)
        try:
            return super().handle_request(request)
        except httpx.TransportError as error:
            raise error from (reason(error) or error.__cause__)

    def _asked_outside(self, public: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        _check_scheme(request)
        call = _outside_call(request)
        try:
            response = public.handle_request(request)
        except BaseException as error:
            call.log(self._source, error)
            raise
        call.status = response.status_code
        call.log(self._source)
        return response

    def close(self) -> None:
        super().close()
        if self._public is not None:
            self._public.close()

    def __exit__(self, *failure: object) -> None:
        self.close()


def _host(request: httpx.Request) -> str:
    return request.url.raw_host.decode("ascii")


def _check_scheme(request: httpx.Request) -> None:
    if request.url.scheme not in ("https", "wss"):
        refusal = plaintext_refused(f"{request.url.scheme}://{request.url.host}")
        raise httpx.UnsupportedProtocol(str(refusal), request=request) from refusal


def _outside_call(request: httpx.Request) -> OutsideCall:
    return OutsideCall(_host(request), request.method, request.url.raw_path.decode("ascii", "replace"))
