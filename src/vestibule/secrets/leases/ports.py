"""What leases need of those who make and take away credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from vestibule.audit import AuditEvent
from vestibule.errors import VestibuleError
from vestibule.secrets.leases.records import Lease

Record: TypeAlias = Callable[[Sequence[AuditEvent]], Awaitable[None]]
"""Puts on record what ended; what takes away does not wait for room in the log (``audit.EmergencyAudit``)."""


class NotMadeError(VestibuleError):
    """It is certain that nothing was made: there is nothing to take away, either."""

    @classmethod
    def of(cls, error: VestibuleError) -> NotMadeError:
        """The same, and certain."""
        return cls(error.code, error.message, advice=error.advice, where=error.where)


class LeasedEngine(Protocol):
    """Whoever makes what is leased."""

    async def renew(self, lease: Lease, expires: datetime) -> None:
        """See that the credential lasts until then.  Raises: when it does not."""
        ...

    async def revoke(self, lease: Lease) -> None:
        """See that the credential is gone, if it ever was: to do so again is no error.

        Raises: errors of ours when it may still be usable.
        """
        ...
