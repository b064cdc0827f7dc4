"""Limits per source: an address, for what anonymous callers may do; an agent, for what it may have signed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from vestibule.net.codes import TOO_MANY_ATTEMPTS

MAX_SOURCES: Final = 4096
ATTESTATIONS_PER_SECOND: Final = 20
SIGNATURES_PER_SECOND: Final = 500
MOST_PER_SECOND: Final = 1_000_000
LARGEST_BATCH: Final = 500
"""Of what an agent asks for in one call."""
Observe: TypeAlias = Callable[[str], None]


def unobserved(_what: str) -> None:
    """Nobody counts."""


class PerSource:
    """Lets each source through ``rate`` times per second after a burst; others wait, at most ``patience`` seconds."""

    def __init__(self, *, rate: float, burst: int, patience: float, observe: Observe = unobserved) -> None:
        """``rate`` 0: everybody is let through at once.

        ``observe`` is told of every call that had to ``wait`` for its turn, or was ``refused`` one.
        """
        self._observe = observe
        self._interval = 1.0 / rate if rate else 0.0
        self._credit = burst * self._interval
        self._patience = patience
        self._free_at: OrderedDict[str, float] = OrderedDict()

    async def pass_through(self, source: str, turns: int = 1) -> None:
        """Wait for this source's turn, or for several.  Raises: VST2325 when that would take too long."""
        wait = self.turn(source, asyncio.get_running_loop().time(), turns)
        if wait > 0:
            await asyncio.sleep(wait)

    def turn(self, source: str, now: float, turns: int = 1) -> float:
        """Take the next turns; seconds until the last of them comes.  Raises: VST2325."""
        free_at = max(self._free_at.get(source, 0.0), now) + self._interval * turns
        wait = free_at - now - self._credit
        if wait > self._patience:
            self._observe("refused")
            raise TOO_MANY_ATTEMPTS.error(f"too many attempts from {source}")
        self._free_at[source] = free_at
        self._free_at.move_to_end(source)
        while len(self._free_at) > MAX_SOURCES:
            self._free_at.popitem(last=False)
        if wait > 0:
            self._observe("waited")
        return wait


class Limits:
    """The limits of one server's doors."""

    NAMES: Final = (
        "attestation",
        "signing",
        "administration",
        "return",
        "time",
        "templates",
        "traffic",
        "uses",
    )

    def __init__(
        self,
        observe: Callable[[str, str], None] = lambda _name, _what: None,
        *,
        attestation: int = ATTESTATIONS_PER_SECOND,
        signing: int = SIGNATURES_PER_SECOND,
    ) -> None:
        """``observe`` is told which limit made somebody wait, or refused somebody.

        ``attestation`` (per address) and ``signing`` (per agent) are per second; 0 turns either off.
        """

        def limit(name: str, rate: float, burst: int, patience: float) -> PerSource:
            return PerSource(rate=rate, burst=burst, patience=patience, observe=partial(observe, name))

        # Anybody may try to attest, and each attempt costs a write to the audit log.
        self.attestation = limit("attestation", attestation, attestation * 5 // 2, 5.0)
        # SPIRE's number per address; ours is per agent, of whom many may come from one.  The burst holds what an agent
        # with a thousand entries asks for at once when an authority was replaced, and always a whole batch.
        self.signing = limit("signing", signing, max(signing * 4, LARGEST_BATCH), 10.0)
        # Of one identity that administers, or is a server below this one, over the port.
        self.administration = limit("administration", 100, 500, 10.0)
        # Anybody may try, and each attempt costs the checking of a signature and perhaps a record.
        self.returning = limit("return", 20, 50, 5.0)
        self.time = limit("time", 50, 200, 1.0)
        # An agent reports what its proxies counted once per second at most.
        self.traffic = limit("traffic", 5, 20, 5.0)
        # An agent reports uses of break-glass once per second at most; each report is a write to the audit log.
        self.uses = limit("uses", 3, 10, 5.0)
        # Each derivation is a write, and makes an agent fetch its entries.
        self.templates = limit("templates", 50, 200, 10.0)
