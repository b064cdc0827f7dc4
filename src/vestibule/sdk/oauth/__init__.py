"""Tokens for applications: got, kept until shortly before their end, given in exchange, verified.

::

    async with AsyncTokens() as tokens:
        client = httpx.AsyncClient(auth=tokens.auth("reports", ["report:read"]))
        answer = await client.get("http://reports/monthly")

    app = TokenRequired(app, TokenVerifier("reports"), scopes=["report:read"])
    token_of(request.scope).subject

``Tokens`` does the first for code that blocks.  There is no client secret: the caller is who its sidecar, its
X509-SVID or its JWT-SVID says.  Needs the base install, and httpx for ``auth``.
"""

from vestibule.sdk.oauth.access_tokens import AccessToken
from vestibule.sdk.oauth.answers import Token
from vestibule.sdk.oauth.asgi import TokenRequired, current_token, current_token_text, token_of
from vestibule.sdk.oauth.blocking import Tokens
from vestibule.sdk.oauth.client import AsyncTokens
from vestibule.sdk.oauth.errors import InvalidTokenError, TokenDeniedError, TokenScopeError, TokensError
from vestibule.sdk.oauth.verifier import TokenVerifier

__all__ = [
    "AccessToken",
    "AsyncTokens",
    "InvalidTokenError",
    "Token",
    "TokenDeniedError",
    "TokenRequired",
    "TokenScopeError",
    "TokenVerifier",
    "Tokens",
    "TokensError",
    "current_token",
    "current_token_text",
    "token_of",
]
