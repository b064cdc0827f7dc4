"""A barrier that stops working at a chosen change, as when the server is killed there."""

from __future__ import annotations

from collections.abc import Sequence

from vestibule.store.barrier import Change
from vestibule.testing.barrier import MemoryBarrier


class KilledError(BaseException):
    """Nothing after this happens in this life of the server: no handler runs."""


class KillingBarrier(MemoryBarrier):
    """Kills whoever makes the ``kill_at``-th change from now: before it is made, or right after it."""

    def __init__(self) -> None:
        super().__init__()
        self.kill_at = 0
        self.after = False
        self.dead = False

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        if self.dead:
            raise KilledError
        if self.kill_at:
            self.kill_at -= 1
            if not self.kill_at:
                self.dead = True
                if self.after:
                    await super().apply(changes)
                raise KilledError
        return await super().apply(changes)

    def restart(self) -> None:
        """Live again, with what was kept."""
        self.dead = False
        self.kill_at = 0
