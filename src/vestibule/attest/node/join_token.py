"""Attestation by join token: a secret that the operator hands to one agent, once.

The evidence is the token itself.  The agent becomes ``spiffe://TD/spire/agent/join_token/TOKEN`` (SPIRE's
convention), which is harmless once the token is used up.  It cannot attest again: it renews its SVID.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from vestibule.attest.node.codes import MALFORMED_JOIN_TOKEN, UNEXPECTED_CHALLENGE
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.errors import VestibuleError
from vestibule.records import JoinToken
from vestibule.spiffe import SpiffeId, TrustDomain

NAME: Final = "join_token"
MAX_TOKEN_BYTES: Final = 255


class Tokens(Protocol):
    """Where tokens are used up; ``store.JoinTokens`` fits."""

    async def consume(self, token: str, now: datetime) -> JoinToken:
        """Exactly one of any number of concurrent callers gets the token; the others an error."""
        ...


def agent_id(trust_domain: TrustDomain, token: str) -> SpiffeId:
    """The SPIFFE ID of the agent that joins with ``token``.  Raises: VST2000, which never shows the token."""
    try:
        if not token or len(token) > MAX_TOKEN_BYTES or "/" in token:
            raise MALFORMED_JOIN_TOKEN.error("the join token is empty, too long, or holds a slash")
        return SpiffeId.of(trust_domain, f"/spire/agent/{NAME}/{token}")
    except VestibuleError as error:
        if error.code is MALFORMED_JOIN_TOKEN:
            raise
        # The cause quotes the token, which may be a mistyped secret: it is not passed on.
        raise MALFORMED_JOIN_TOKEN.error("the join token holds characters that are not allowed") from None


class JoinTokenAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, tokens: Tokens, trust_domain: TrustDomain) -> None:
        self._tokens = tokens
        self._trust_domain = trust_domain

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Use up the token.  Raises: VST2000 (malformed); the store's errors: unknown, used, expired."""
        try:
            token = payload.decode("ascii")
        except UnicodeDecodeError:
            raise MALFORMED_JOIN_TOKEN.error("the join token is not ASCII") from None
        identity = agent_id(self._trust_domain, token)
        record = await self._tokens.consume(token, now)
        return AttestedNode(agent_id=identity, alias=record.agent_id)


class JoinTokenProof:
    """The agent's half."""

    name = NAME
    single_use = True

    def __init__(self, token: str) -> None:
        self._token = token

    async def payload(self) -> bytes:
        """The token."""
        return self._token.encode("ascii", "replace")

    async def respond(self, challenge: bytes) -> bytes:
        """Join tokens know no challenges.  Raises: VST2002."""
        raise UNEXPECTED_CHALLENGE.error("the server challenged a join token")

    async def close(self) -> None:
        """There is nothing to put away."""
