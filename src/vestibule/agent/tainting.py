"""What leads to a tainted authority is renewed early: all of it soon, but not all of it at once.

Taint comes before revocation, and says: everything that this authority signed will be worth nothing.  Until then it
is valid, so that nobody is in a hurry that would break a handshake; a server with many agents must not be asked for
everything in the same second, either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.agent.cache import Held, Holdings
from vestibule.pki.chains import is_tainted

BATCH: Final = 100
PACE: Final = timedelta(seconds=5)
"""So many SVIDs are renewed in such a time (SPIRE's pace); which of them is when in it, is left to chance."""


def hasten(holdings: Holdings, now: datetime, chance: Callable[[], float]) -> Holdings:
    """The holdings, with what leads to a tainted authority due for renewal; ``chance`` gives 0 to 1.

    The agent's own certificate comes first: without it, none of the others can be asked for.
    """
    bundle = holdings.bundle
    if bundle is None or not bundle.tainted_x509:
        return holdings

    def tainted(held: Held) -> bool:
        return is_tainted(held.svid.chain, bundle, now)

    own = holdings.own
    if own is not None and tainted(own):
        own = _sooner(own, now + PACE * chance() / 2)
    found = [each for each, held in holdings.svids.items() if tainted(held)]
    sooner = {
        each: _sooner(holdings.svids[each], now + PACE * (place // BATCH + chance()))
        for place, each in enumerate(found)
    }
    return replace(holdings, own=own, svids={**holdings.svids, **sooner})


def again(held: Held, now: datetime) -> Held:
    """An SVID that is new, and tainted again: the server has not changed over yet.  It is asked later."""
    return _sooner(held, now + PACE)


def _sooner(held: Held, due: datetime) -> Held:
    return replace(held, renew_at=min(held.renew_at, due))
