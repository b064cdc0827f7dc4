"""The client of the token service for code that blocks: the other one, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vestibule.sdk.holder import Holder
from vestibule.sdk.oauth.addresses import TokensAddress
from vestibule.sdk.oauth.answers import ACCESS_TOKEN, Token
from vestibule.sdk.oauth.client import AsyncTokens, Given, Names, Taken
from vestibule.sdk.threads import Blocking, LoopThread

if TYPE_CHECKING:
    from vestibule.sdk.oauth.httpx import TokenAuth


class Tokens(Blocking[AsyncTokens]):
    """``AsyncTokens`` without asyncio.  Methods may be called from any thread, not from a running event loop."""

    def __init__(
        self,
        address: str | None = None,
        *,
        issuer: str = "",
        source: Holder | None = None,
        context: ssl.SSLContext | None = None,
        workload_api: str | None = None,
    ) -> None:
        """Raises: VST6120."""
        client = AsyncTokens(
            address, issuer=issuer, source=source, context=context, workload_api=workload_api
        )
        super().__init__(client, "vestibule tokens")

    @property
    def address(self) -> TokensAddress:
        """Where it asks."""
        return self._client.address

    def get(self, audience: Names, scopes: Names = ()) -> Token:
        """As ``AsyncTokens.get``."""
        return self._thread.wait(self._client.get(audience, scopes))

    def exchange(
        self,
        subject_token: str,
        audience: Names,
        scopes: Names = (),
        *,
        subject_type: str = ACCESS_TOKEN,
        actor_token: str = "",
    ) -> Token:
        """As ``AsyncTokens.exchange``."""
        return self._thread.wait(
            self._client.exchange(
                subject_token, audience, scopes, subject_type=subject_type, actor_token=actor_token
            )
        )

    def admit(self, assertion: str, audience: Names, scopes: Names = ()) -> Token:
        """As ``AsyncTokens.admit``."""
        return self._thread.wait(self._client.admit(assertion, audience, scopes))

    def forget(self, token: Token) -> None:
        """As ``AsyncTokens.forget``."""
        self._thread.wait(_forgotten(self._client, token))

    def auth(self, audience: Names, scopes: Names = (), *, on_behalf_of: Given | None = None) -> TokenAuth:
        """As ``AsyncTokens.auth``, for ``httpx.Client`` and for ``httpx.AsyncClient``."""
        from vestibule.sdk.oauth.httpx import TokenAuth

        return TokenAuth(_Taken(Taken(self._client, audience, scopes, on_behalf_of), self._thread))

    def inspect(self, token: str) -> Mapping[str, Any]:
        """As ``AsyncTokens.inspect``."""
        return self._thread.wait(self._client.inspect(token))

    def revoke(self, token: Token | str) -> None:
        """As ``AsyncTokens.revoke``."""
        self._thread.wait(self._client.revoke(token))

    def keys(self) -> Mapping[str, Any]:
        """As ``AsyncTokens.keys``."""
        return self._thread.wait(self._client.keys())

    def metadata(self) -> Mapping[str, Any]:
        """As ``AsyncTokens.metadata``."""
        return self._thread.wait(self._client.metadata())


class _Taken:
    """Tokens that are got in the thread, whoever waits for them."""

    def __init__(self, taken: Taken, thread: LoopThread) -> None:
        self._taken = taken
        self._thread = thread
        self.now = taken.now
        self.given = taken.given

    async def take(self, given: str, refused: Token | None = None) -> Token:
        return await asyncio.wrap_future(self._thread.begin(self._taken.take(given, refused)))

    def waited(self, given: str, refused: Token | None = None) -> Token:
        return self._thread.wait(self._taken.take(given, refused))


async def _forgotten(client: AsyncTokens, token: Token) -> None:
    client.forget(token)
