"""What the server above has revoked holds here, too: followed there, recorded, and put on our own list.

Lists only grow stricter, so nothing is ever taken off ours but what came from above and is lifted there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authority_revocation import AuthorityRevocation, Signers
from vestibule.pki.revocation import fingerprint, key_fingerprint
from vestibule.records import AuthorityState
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, TrustDomain

ACTOR: Final = "the server above"
RETRY_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


@runtime_checkable
class RevocationsAbove(Protocol):
    """An upstream that tells what is revoked."""

    def revocations(self) -> AsyncIterator[Sequence[Revocation] | None]:
        """All of it, then every change; ``None`` where the server above has no such list.

        May raise, and is begun anew then.
        """
        ...


class List(Protocol):
    """Our own list (``identity.revocation_list``)."""

    @property
    def now(self) -> Revocations: ...

    async def add(self, *changes: Revocation) -> Revocations: ...


class InheritedRevocations:
    """Follows the server above, for ever."""

    def __init__(
        self,
        above: RevocationsAbove,
        listed: List,
        signers: Signers,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        renew_server: Callable[[], Awaitable[None]],
    ) -> None:
        """``renew_server`` gives this server a new SVID."""
        self._above = above
        self._list = listed
        self._signers = signers
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._renew_server = renew_server
        self.problem: str | None = None
        """Why the list above is not followed, while it is not."""

    async def run(self) -> None:
        """Follow, and begin anew after every failure; end where the server above has no list."""
        while True:
            try:
                await self._move_on()
                async for changes in self._above.revocations():
                    if changes is None:
                        _log.info("the server above tells nobody what it revokes")
                        return
                    await self.take(changes)
                    self.problem = None
            except VestibuleError as error:
                level = logging.DEBUG if str(error) == self.problem else logging.WARNING
                self.problem = str(error)
                _log.log(level, "not following what the server above revokes: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def take(self, changes: Sequence[Revocation]) -> None:
        """1. What is news goes on record.  2. It holds.  3. If it means our own authority, another one signs.

        Raises: errors of the audit log and of the store; then all of it comes again.
        """
        news = [replace(each, actor=ACTOR, note="") for each in changes if self._is_stricter(each)]
        if not news:
            return
        await self._audit.record([_event(each) for each in news])
        await self._list.add(*news)
        for each in news:
            _log.warning("revoked by the server above: %s", each)
        await self._move_on()

    def _is_stricter(self, revocation: Revocation) -> bool:
        """Whether it says more than what is known, or takes back what was said above before."""
        known, target = self._list.now.get(revocation.id), revocation.target
        if known is None:
            return True
        if isinstance(target, RevokedIdentity) and isinstance(known.target, RevokedIdentity):
            was, would = known.target.issued_before, target.issued_before
            if was != would:
                return (
                    would is None
                    or (was is not None and would > was)
                    or (was is None and known.actor == ACTOR)
                )
        return _lasts_longer(revocation.expires_at, known.expires_at)

    async def _move_on(self) -> None:
        """If our own authority is revoked, let another one sign.  Raises: what the server above answers."""
        for authority in self._signers.lifecycle.all():
            own = authority.chain[0]
            listed = self._list.now.of_authority(fingerprint(own), key_fingerprint(own), self._clock.now())
            if listed is None or authority.state is not AuthorityState.ACTIVE:
                continue
            found = AuthorityRevocation.find(self._signers, self._trust_domain, authority.id, b"")
            await found.move_away(self._signers, ACTOR, _at_once)
            await self._renew_server()


async def _at_once() -> None:
    """What the old authority signed is refused already: there is nothing to wait for."""


def as_revoking(upstream: object) -> RevocationsAbove | None:
    """The upstream as one that tells what is revoked, if it does."""
    return upstream if isinstance(upstream, RevocationsAbove) else None


def _lasts_longer(new: datetime | None, known: datetime | None) -> bool:
    return known is not None and (new is None or new > known)


def _event(revocation: Revocation) -> AuditEvent:
    return AuditEvent(
        actor=ACTOR,
        action="revocation.inherit",
        subject=revocation.target.name,
        details={"kind": revocation.target.kind, "reason": revocation.reason.value},
    )
