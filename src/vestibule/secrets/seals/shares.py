"""The seal of people: a key that exists only as shares, each with somebody else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

from vestibule.secrets.seals.codes import MALFORMED_SHARE, SEAL_REFUSED, WRONG_SHARE
from vestibule.secrets.seals.ports import MAX_SHARES, Document, Plan, Wrapped
from vestibule.secrets.seals.shamir import combine, split
from vestibule.secrets.seals.wrapping import unwrapped, wrapped

SHARE_BYTES: Final = 33
_KEY_BYTES: Final = 32


class ShamirSeal:
    """``secrets.seals.ports.Seal``: the root key under a key that is split into shares.

    The document keeps a digest of each share, salted, so that a wrong one is known at once and by itself.  A share is
    256 bits drawn at random: a digest tells nobody anything about it.
    """

    kind = "shamir"
    automatic = False
    has_shares = True

    async def wrap(self, root_key: bytes, plan: Plan) -> Wrapped:
        """Wrap a root key under a new key, and split that."""
        key, salt = secrets.token_bytes(_KEY_BYTES), secrets.token_hex(16)
        shares = await asyncio.to_thread(split, key, plan.shares, plan.threshold)
        document = {
            "kind": self.kind,
            "version": 1,
            "shares": plan.shares,
            "threshold": plan.threshold,
            "salt": salt,
            "digests": [_digest(salt, share) for share in shares],
        }
        return Wrapped(document=wrapped(document, root_key, key), shares=shares)

    async def unwrap(self, document: Document, shares: Sequence[bytes] = ()) -> bytes:
        """The root key, from as many different shares as are needed."""
        plan = self.plan(document)
        known = {self.number(document, share): share for share in shares}
        if len(known) < plan.threshold:
            raise WRONG_SHARE.error(f"{len(known)} shares are there, {plan.threshold} are needed")
        return unwrapped(document, await asyncio.to_thread(combine, list(known.values())))

    def plan(self, document: Document) -> Plan:
        """As it stands in the document, which is believed once the root key is unwrapped."""
        shares, threshold = document.get("shares"), document.get("threshold")
        digests = document.get("digests")
        if not (isinstance(shares, int) and isinstance(threshold, int) and isinstance(digests, list)):
            raise SEAL_REFUSED.error("the seal in the database is malformed")
        if len(digests) != shares or not 1 <= threshold <= shares <= MAX_SHARES:
            raise SEAL_REFUSED.error("the seal in the database is malformed")
        return Plan(shares=shares, threshold=threshold)

    def number(self, document: Document, share: bytes) -> int:
        """Which share it is."""
        if len(share) != SHARE_BYTES or not share[-1]:
            raise MALFORMED_SHARE.error(f"a share has {SHARE_BYTES} bytes, of which the last is not zero")
        number, plan = share[-1], self.plan(document)
        expected = str(document["digests"][number - 1]) if number <= plan.shares else ""
        if not hmac.compare_digest(_digest(str(document.get("salt")), share).encode(), expected.encode()):
            raise WRONG_SHARE.error("the share is not one of this seal")
        return number


def _digest(salt: str, share: bytes) -> str:
    return hashlib.sha256(b"vestibule share " + salt.encode() + b" " + share).hexdigest()
