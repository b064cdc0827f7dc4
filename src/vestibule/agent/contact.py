"""How the agent stands with its server, as everybody who asks may know it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from vestibule.agent.skew import Skew
from vestibule.clock import Clock
from vestibule.errors import VestibuleError


class Contact:
    """Written by those who talk to the server, read by health pages, metrics and the operator's door."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.connected = False
        """Whether the server's changes are followed now."""
        self.seen_at: datetime | None = None
        """When the server last answered."""
        self.problem: VestibuleError | None = None
        """Why the last round failed, until one succeeds."""
        self.skew: Skew | None = None
        """How far our clock is from the server's, as last measured."""

        self.entries_synced_at: datetime | None = None
        """When the entries were last fetched, or found to be unchanged."""
        self.observe_sync: Callable[[float], None] = lambda _: None
        """Told how many seconds that took."""

    def entries_synced(self, seconds: float) -> None:
        """The server has just said which entries there are."""
        self.seen()
        self.entries_synced_at = self.seen_at
        self.observe_sync(seconds)

    def seen(self) -> None:
        """The server has answered just now."""
        self.seen_at = self._clock.now()
