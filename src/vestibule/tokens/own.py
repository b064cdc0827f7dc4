"""Tokens of a client's own (RFC 6749, section 4.4): asked for again and again, and then nearly all of it is known.

What is asked for is parsed once, and its token prepared once; the policy is asked every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vestibule.spiffe import SpiffeId
from vestibule.tokens.minting import Mint, Order, Prepared, Subject, prepared
from vestibule.tokens.permission import permission_of, refused
from vestibule.tokens.ports import Asked, Client, Minted, TokenAccess, TokenDecision, Verb
from vestibule.tokens.targets import scopes_of, targets_of

MOST_KEPT: Final = 4096

_Key: TypeAlias = tuple[SpiffeId, bytes | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A question, and the token for as long as the policy says the same."""

    asked: tuple[Asked, ...]
    decisions: list[TokenDecision]
    token: Prepared | None


class OwnTokens:
    """Gives clients tokens of their own."""

    def __init__(self, issuer: str, access: TokenAccess, mint: Mint) -> None:
        self._issuer = issuer
        self._access = access
        self._mint = mint
        self._kept: dict[_Key, _Kept] = {}

    async def mint(
        self, client: Client, audiences: Sequence[str], resources: Sequence[str], scopes: Sequence[str]
    ) -> Minted:
        """A token, if each audience may be had with each scope.

        Raises: VST6010 to VST6014, VST6021, VST6030.
        """
        key = (client.spiffe_id, client.thumbprint, tuple(audiences), tuple(resources), tuple(scopes))
        kept = self._kept.get(key)
        if kept is None:
            kept = _Kept(_asked(client, audiences, resources, scopes), [], None)
        decisions = [self._access.decide(each) for each in kept.asked]
        token = kept.token if decisions == kept.decisions else None
        if token is None:
            token = self._prepared(client, kept.asked, decisions)
            self._keep(key, _Kept(kept.asked, decisions, token))
        return await self._mint.minted(token)

    def _prepared(
        self, client: Client, asked: Sequence[Asked], decisions: Sequence[TokenDecision]
    ) -> Prepared:
        for question, decision in zip(asked, decisions, strict=True):
            if not decision.allowed:
                raise refused(question, decision)
        order = Order(
            client=client,
            subject=Subject(name=str(client.spiffe_id)),
            targets=tuple(each.audience for each in asked),
            scopes=asked[0].scopes,
            permission=permission_of(decisions),
        )
        return prepared(self._issuer, order)

    def _keep(self, key: _Key, kept: _Kept) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[key] = kept


def _asked(
    client: Client, audiences: Sequence[str], resources: Sequence[str], scopes: Sequence[str]
) -> tuple[Asked, ...]:
    targets, wanted = targets_of(audiences, resources), scopes_of(scopes)
    return tuple(
        Asked(client=client.spiffe_id, verb=Verb.MINT, audience=each, scopes=wanted) for each in targets
    )
