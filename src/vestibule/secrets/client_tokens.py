"""Tokens for clients that cannot do without: signed, short, bound to one identity.

Over mTLS nobody needs one.  A token is its own record: what is kept is only of those that were renewed or revoked,
until they would have ended anyway.  So logging in writes nothing, and a million logins are no burden.
"""

from __future__ import annotations

import binascii
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.secrets.codes import TOKEN_REFUSED, TOKEN_SPENT
from vestibule.spiffe import SpiffeId
from vestibule.store.barrier import Barrier, Put
from vestibule.store.sweeping import sweeping, swept

SPACE: Final = "client-tokens"
PREFIX: Final = "hvb."
USUAL: Final = timedelta(minutes=15)
LONGEST: Final = timedelta(hours=4)

_PURPOSE: Final = "client-token"
_LONGEST_TEXT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientToken:
    """Whose token it is, and how long it lasts.  ``last`` is the end that no renewal passes."""

    spiffe_id: SpiffeId
    accessor: str
    issued: datetime
    expires: datetime
    last: datetime


class ClientTokens:
    """Makes tokens and reads them.  Every method raises VST5000 while the barrier is sealed."""

    def __init__(self, barrier: Barrier, clock: Clock) -> None:
        self._barrier = barrier
        self._clock = clock

    def issue(
        self, spiffe_id: SpiffeId, ttl: timedelta | None = None, *, parent: ClientToken | None = None
    ) -> tuple[str, ClientToken]:
        """A new token and what it says.  One made with another token ends no later than that."""
        now = self._clock.now().replace(microsecond=0)
        last = min([now + LONGEST, *([parent.last] if parent else [])])
        token = ClientToken(
            spiffe_id=spiffe_id,
            accessor=secrets.token_urlsafe(18),
            issued=now,
            expires=min(now + (ttl or USUAL), last),
            last=last,
        )
        return self._written(token), token

    async def read(self, text: str, *, shown_by: SpiffeId | None = None) -> ClientToken:
        """What a token says.  ``shown_by`` is who showed it, where mTLS tells.  Raises: VST5550."""
        token = self._verified(text)
        if shown_by is not None and shown_by != token.spiffe_id:
            raise TOKEN_REFUSED.error("the token was made for another identity than the connection's")
        token = await self._as_changed(token)
        if token.expires <= self._clock.now():
            raise TOKEN_REFUSED.error("the token has ended")
        return token

    async def renew(self, token: ClientToken, increment: timedelta | None = None) -> ClientToken:
        """The same token, lasting ``increment`` from now, as far as its last end allows.

        Raises: VST5550, VST5551, VST5001 where it was changed in the same moment.
        """
        item = await self._barrier.get(SPACE, token.accessor)
        now = self._clock.now().replace(microsecond=0)
        renewed = replace(token, expires=min(now + (increment or USUAL), token.last))
        if renewed.expires <= now:
            raise TOKEN_SPENT.error("the token has reached its last end")
        if item is not None and _expires(item.value) <= now:
            raise TOKEN_REFUSED.error("the token has ended")
        # Not over a revocation that came since.
        await self._keep(token.accessor, renewed.expires, token.last, expected=item.revision if item else 0)
        return renewed

    async def revoke(self, token: ClientToken) -> None:
        """The token is good for nothing from now on."""
        await self._keep(token.accessor, token.issued, token.last)

    async def revoke_accessor(self, accessor: str) -> None:
        """Revoke a token that only its accessor is known of (from the audit log)."""
        now = self._clock.now()
        await self._keep(accessor, datetime.fromtimestamp(0, UTC), now + LONGEST)

    async def run(self) -> None:
        """Forget what was kept of tokens that have ended."""
        await sweeping(self._barrier, self._clock, self.sweep)

    async def sweep(self) -> int:
        """Forget what was kept of tokens that have ended; of how many."""
        return await swept(self._barrier, SPACE, self._clock.now(), _end)

    def _written(self, token: ClientToken) -> str:
        said = {
            "s": str(token.spiffe_id),
            "a": token.accessor,
            "i": int(token.issued.timestamp()),
            "e": int(token.expires.timestamp()),
            "l": int(token.last.timestamp()),
        }
        payload = json.dumps(said, separators=(",", ":")).encode()
        return f"{PREFIX}{_text(payload)}.{_text(self._barrier.mac(_PURPOSE, payload))}"

    def _verified(self, text: str) -> ClientToken:
        payload, given = _parts(text)
        if not hmac.compare_digest(given, self._barrier.mac(_PURPOSE, payload)):
            raise TOKEN_REFUSED.error("the token is not one of ours")
        said = json.loads(payload)
        issued, expires, last = (datetime.fromtimestamp(said[name], UTC) for name in "iel")
        return ClientToken(
            spiffe_id=SpiffeId.parse(said["s"]), accessor=said["a"], issued=issued, expires=expires, last=last
        )

    async def _as_changed(self, token: ClientToken) -> ClientToken:
        """With its end as renewal or revocation have set it."""
        item = await self._barrier.get(SPACE, token.accessor)
        if item is None:
            return token
        return replace(token, expires=min(_expires(item.value), token.last))

    async def _keep(
        self, accessor: str, expires: datetime, last: datetime, *, expected: int | None = None
    ) -> None:
        said = {"e": expires.timestamp(), "l": last.timestamp()}
        put = Put(space=SPACE, key=accessor, value=json.dumps(said).encode(), expected=expected)
        await self._barrier.apply([put])


def _expires(value: bytes) -> datetime:
    return datetime.fromtimestamp(json.loads(value)["e"], UTC)


def _end(value: bytes) -> datetime:
    return datetime.fromtimestamp(json.loads(value)["l"], UTC)


def _parts(text: str) -> tuple[bytes, bytes]:
    body = text.removeprefix(PREFIX)
    payload, dot, given = body.partition(".")
    if len(text) > _LONGEST_TEXT or body == text or not dot or not text.isascii():
        raise TOKEN_REFUSED.error("the token is not one of ours")
    try:
        return _bytes(payload), _bytes(given)
    except (binascii.Error, ValueError):
        raise TOKEN_REFUSED.error("the token is not one of ours") from None


def _text(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
