"""What stands between a right to an identity and its certificate: is it revoked, and how could this be taken back?"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.clock import Clock
from vestibule.identity.codes import IDENTITY_REVOKED
from vestibule.identity.marks import Marks
from vestibule.pki.profiles import Lifetime, serial_number
from vestibule.spiffe import Revocations, RevokedIdentity, SpiffeId
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.store.issued import Issued

SHORT_WAIT: Final = timedelta(seconds=2)
"""How long a request waits for the instant from which new SVIDs of its identity count: at most a second after a
revocation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which an SVID may be issued: with this mark (0: through no agent), not earlier than ``not_before``."""

    mark: int = 0
    not_before: datetime | None = None

    def serial(self) -> int:
        """A new serial number, half of it random for certificates of an agent, else all of it."""
        if not self.mark:
            return serial_number()
        return (self.mark << MARK_BITS) | secrets.randbits(MARK_BITS)

    def lifetime(self, valid: Lifetime) -> Lifetime:
        """``valid``, but so that the certificate is not taken for one from before a revocation."""
        if self.not_before is None or valid.not_before >= self.not_before:
            return valid
        return replace(valid, not_before=self.not_before)


class IssuanceGate(Protocol):
    """What issuance asks before it signs, and tells before it hands out."""

    async def admit(self, spiffe_id: SpiffeId, agent_id: SpiffeId | None = None) -> Terms:
        """Under which terms an SVID may be issued, through an agent or directly.  Raises: VST1250 (revoked)."""
        ...

    def note(self, issued: Sequence[Issued]) -> None:
        """Remember certificates that are about to be handed out.  Raises: VST8000; then they are not."""
        ...


class OpenGate:
    """Admits everybody and remembers nothing."""

    async def admit(self, _spiffe_id: SpiffeId, _agent_id: SpiffeId | None = None) -> Terms:
        """No terms."""
        return Terms()

    def note(self, _issued: Sequence[Issued]) -> None:
        """Nothing."""


class RevocationGate:
    """Admits who is not revoked."""

    def __init__(
        self,
        revocations: Callable[[], Revocations],
        marks: Marks,
        note: Callable[[Sequence[Issued], datetime], None],
        clock: Clock,
    ) -> None:
        self._revocations = revocations
        self._marks = marks
        self._note = note
        self._clock = clock

    async def admit(self, spiffe_id: SpiffeId, agent_id: SpiffeId | None = None) -> Terms:
        """The mark of the agent, and the earliest start after a revocation."""
        await self._until_open(spiffe_id)
        mark = await self._mark(agent_id) if agent_id is not None else 0
        # Asked last, with nothing awaited afterwards: what was revoked meanwhile is refused.
        now, revocations = self._clock.now(), self._revocations()
        why = revocations.issuing(spiffe_id, now) or (mark and revocations.of_mark(mark, now)) or None
        if why is not None:
            raise IDENTITY_REVOKED.error(f"{spiffe_id} gets nothing: {why}")
        return Terms(mark=mark, not_before=revocations.earliest_start(spiffe_id))

    def note(self, issued: Sequence[Issued]) -> None:
        """Append to the files of what was issued."""
        self._note(issued, self._clock.now())

    async def _mark(self, agent_id: SpiffeId) -> int:
        mark = await self._marks.of(agent_id)
        if self._revocations().of_mark(mark, self._clock.now()) is not None:
            # Another server of this database revoked it; what is issued from now on has another one.
            await self._marks.retire(agent_id)
            mark = await self._marks.of(agent_id)
        return mark

    async def _until_open(self, spiffe_id: SpiffeId) -> None:
        """Just after a revocation of what was issued before, wait for the second from which new ones count."""
        why = self._revocations().issuing(spiffe_id, self._clock.now())
        if why is None or not isinstance(why.target, RevokedIdentity) or why.target.issued_before is None:
            return
        if why.target.issued_before - self._clock.now() <= SHORT_WAIT:
            await self._clock.sleep_until(why.target.issued_before)
