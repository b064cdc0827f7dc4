"""The seam between node agents, node attestors and the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from vestibule.spiffe import Selector, SpiffeId

Challenge: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Sends a challenge to the agent and waits for its response; usable any number of times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedNode:
    """What an attestor found out.

    ``can_reattest`` says whether the same evidence proves the node again; if not, its agent renews its
    SVID instead.  ``first_use_only`` refuses a node that is attested already, where evidence does not change and can
    be had by others on the node.  ``alias`` is an identity to give to the node beside its own (SPIRE's ``-spiffeID``
    of a join token).
    """

    agent_id: SpiffeId
    selectors: frozenset[Selector] = frozenset()
    can_reattest: bool = False
    first_use_only: bool = False
    alias: SpiffeId | None = None


class NodeAttestor(Protocol):
    """The server's half."""

    @property
    def name(self) -> str:
        """The attestation type, such as ``join_token``."""
        ...

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Judge an agent's evidence.  Raises: VestibuleError when it does not hold."""
        ...


class NodeProof(Protocol):
    """The agent's half, for one attestation."""

    @property
    def name(self) -> str:
        """The attestation type, such as ``join_token``."""
        ...

    @property
    def single_use(self) -> bool:
        """Whether the same payload is pointless to send again, whatever the server answered to it."""
        ...

    async def payload(self) -> bytes:
        """The evidence that opens the conversation."""
        ...

    async def respond(self, challenge: bytes) -> bytes:
        """The answer to one challenge.  Raises: VST2002 for a kind that has none."""
        ...

    async def close(self) -> None:
        """The attestation is over, however it ended; may be called at any time, and twice."""
        ...
