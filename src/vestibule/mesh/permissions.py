"""What break-glass permits now, as those see it who compile and describe."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from vestibule.mesh.revision import Revision
from vestibule.records import Emergency


class Permissions(Protocol):
    """The permissions that hold (``mesh.break_glass``)."""

    @property
    def revision(self) -> Revision:
        """Grows when one is opened, or ends before its time."""
        ...

    def holding(self) -> tuple[Emergency, ...]:
        """Those that hold now, in the order in which they were opened."""
        ...

    def ended(self) -> tuple[Emergency, ...]:
        """Those that have ended and are still known."""
        ...

    def next_end(self, now: datetime) -> datetime | None:
        """When the next of them ends by itself."""
        ...


class NoPermissions:
    """Nobody opens break-glass here."""

    def __init__(self) -> None:
        self._never = Revision()

    @property
    def revision(self) -> Revision:
        """Nothing ever changes."""
        return self._never

    def holding(self) -> tuple[Emergency, ...]:
        """Nothing."""
        return ()

    def ended(self) -> tuple[Emergency, ...]:
        """Nothing."""
        return ()

    def next_end(self, now: datetime) -> datetime | None:
        """Never."""
        del now
        return None
