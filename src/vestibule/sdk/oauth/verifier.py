"""Verifying access tokens, with the keys of the token service as it shows them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from vestibule.clock import Clock, SystemClock
from vestibule.sdk.codes import TOKENS_UNREACHABLE
from vestibule.sdk.oauth.access_tokens import AccessToken, key_id_of, verified
from vestibule.sdk.oauth.client import AsyncTokens, Names
from vestibule.sdk.oauth.errors import TokensError
from vestibule.sdk.oauth.keys import IssuerKeys


class TokenVerifier:
    """Says what a token proves to ``audience``, for as long as the block is entered.

    The keys come from the token service, by ``tokens`` or a client of its own; ``issuer`` does, too, unless it is
    given.  What is revoked is not known here: sidecars refuse it, and ``AsyncTokens.inspect`` tells.
    """

    def __init__(
        self,
        audience: Names,
        *,
        issuer: str = "",
        tokens: AsyncTokens | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises: VST6120 where it is not known where the token service is."""
        self.audience = frozenset((audience,) if isinstance(audience, str) else audience)
        self._issuer = issuer
        self._given = tokens
        self._tokens = tokens or AsyncTokens()
        self._clock = clock or SystemClock()
        self._keys = IssuerKeys(self._tokens.keys, self._clock)
        self._entered = AsyncExitStack()
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Raises: VST2402 where an SVID is needed and none comes."""
        if self._given is None:
            await self._entered.enter_async_context(self._tokens)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._keys.close()
        await self._entered.aclose()

    async def verify(self, text: str) -> AccessToken:
        """What the token says.

        Raises: InvalidTokenError (as ``verified``); VST6125 and VST6121 while the token service was never reached.
        """
        keys = await self._keys.for_key(key_id_of(text))
        issuer = self._issuer or await self._told_issuer()
        return verified(
            text,
            keys,
            issuer=issuer,
            audience=self.audience,
            now=self._clock.now(),
        )

    async def _told_issuer(self) -> str:
        # The connection says who tells: the sidecar's mutual TLS, or ours.
        async with self._asking:
            if not self._issuer:
                self._issuer = _issuer(await self._tokens.metadata())
        return self._issuer


def _issuer(metadata: Any) -> str:
    found = metadata.get("issuer")
    if not isinstance(found, str) or not found:
        raise TokensError(TOKENS_UNREACHABLE, "the token service does not say what its issuer is")
    return found
