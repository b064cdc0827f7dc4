"""Looking again at the callers of lasting streams: what was verified stays so while nothing of it changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.pki.certificates import load_certificate
from vestibule.spiffe import Revocations, TrustBundle

_JUST_NOW: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Verified:
    """That a connection's chain held against a bundle and a list of revocations, from one instant to another.

    The signatures of a chain do not change, and the chain of a connection does not either.  What may change is the
    time: the verdict ends with the first certificate that does, above the leaf or beside it in the bundle, and counts
    for no instant before it was given, lest a clock that is set back makes it last.
    """

    bundle: TrustBundle
    revocations: Revocations
    since: datetime
    until: datetime

    @classmethod
    def now(
        cls, chain: tuple[bytes, ...], bundle: TrustBundle, revocations: Revocations, now: datetime
    ) -> Verified:
        """What has just been verified.  Raises: VST1005."""
        ends = [load_certificate(der).not_valid_after_utc for der in chain]
        # Authorities that ended long ago are in no path; one that ended just now may be in a path that was remembered.
        above = (load_certificate(der).not_valid_after_utc for der in bundle.x509_authorities)
        ends += [end for end in above if end > now - _JUST_NOW]
        return cls(bundle, revocations, now, min(ends, default=now))

    def holds(self, bundle: TrustBundle | None, revocations: Revocations, now: datetime) -> bool:
        """Whether verifying again would be of no use."""
        return (
            bundle is not None
            and revocations is self.revocations
            and self.since <= now <= self.until
            and bundle == self.bundle
        )
