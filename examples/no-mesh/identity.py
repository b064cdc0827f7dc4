"""Which identity a program has.

On a machine that you share with nobody, all programs have the same user, and the agent gives each of them all the
identities of that user: one chooses by the hint of its entry.  Elsewhere it is just ``async with X509Source()``.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vestibule.sdk import X509Source, X509Svid

TRUST_DOMAIN = "spiffe://example.org"
CUSTOMER, ORDERS, PAYMENTS = (
    f"{TRUST_DOMAIN}/ns/dev/sa/{name}" for name in ("customer", "orders", "payments")
)


@asynccontextmanager
async def identity_of(name: str) -> AsyncIterator[X509Source]:
    def pick(svids: Sequence[X509Svid]) -> X509Svid:
        return next((each for each in svids if each.hint == name), svids[0])

    async with X509Source(pick=pick) as source:
        async for _ in source.changes():
            if source.svid.hint == name:
                break
        yield source
