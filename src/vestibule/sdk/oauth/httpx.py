"""Tokens for requests that are made with httpx, which is not in the base installation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from datetime import datetime, timedelta
from typing import Final, Protocol

import httpx

from vestibule.sdk.oauth.answers import Token

FRESH: Final = timedelta(seconds=5)
"""A token that is younger was not revoked since: where it is refused, another one would be, too."""


class TokenSource(Protocol):
    """Where ``TokenAuth`` has its tokens from: ``AsyncTokens.auth`` and ``Tokens.auth`` make them."""

    def now(self) -> datetime: ...

    def given(self) -> str:
        """The token that is to be given for one, empty for one of the caller's own.

        Read in the place where the request is made.
        """
        ...

    async def take(self, given: str, refused: Token | None = None) -> Token:
        """A token, another one than that which was refused."""
        ...

    def waited(self, given: str, refused: Token | None = None) -> Token:
        """The same, for code that blocks."""
        ...


class TokenAuth(httpx.Auth):
    """Sends a token along with each request (RFC 6750, section 2.1).

    A request that is answered by 401 is sent once more with a new token, if its body can be sent again: keys can be
    revoked before their tokens end.  Give it to clients of the service that the audience stands for, not to one that
    talks to everybody: whoever gets a token can show it.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Raises: as ``Tokens.get`` and ``Tokens.exchange``."""
        given = self._source.given()
        token = self._source.waited(given)
        response = yield _bearing(request, token)
        if self._is_worth_another(request, response, token):
            yield _bearing(request, self._source.waited(given, token))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Raises: as ``AsyncTokens.get`` and ``AsyncTokens.exchange``."""
        given = self._source.given()
        token = await self._source.take(given)
        response = yield _bearing(request, token)
        if self._is_worth_another(request, response, token):
            yield _bearing(request, await self._source.take(given, token))

    def _is_worth_another(self, request: httpx.Request, response: httpx.Response, token: Token) -> bool:
        again = isinstance(request.stream, httpx.ByteStream)
        return response.status_code == 401 and again and self._source.now() - token.taken >= FRESH


def _bearing(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["authorization"] = f"Bearer {token.text}"
    return request
