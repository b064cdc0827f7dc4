"""An upstream authority of a test's own: a root, perhaps intermediates, and roots that change when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.identity.upstream import UpstreamChain
from vestibule.pki import profiles
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.pki.csr import parse_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import TrustDomain

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """A root, what is between it and what it issues (the issuer first), and the issuer's key."""

    root: bytes
    between: tuple[bytes, ...]
    key: EllipticCurvePrivateKey


class TestUpstream:
    """An ``identity.upstream.UpstreamAuthority`` in memory.

    ``intermediates`` stand between its root and what it mints.  ``failure``, once set, is raised by ``mint``.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    def __init__(
        self,
        trust_domain: TrustDomain | str = "example.org",
        *,
        intermediates: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        ttl: timedelta = 365 * DAY,
        longest: timedelta | None = None,
    ) -> None:
        """``longest`` is how long it signs for at most, whatever is asked for."""
        self.name = "test"
        self.trust_domain = TrustDomain.parse(str(trust_domain))
        self.minted = 0
        self.failure: VestibuleError | None = None
        self._now = now
        self._ttl = ttl
        self._longest = longest
        self._intermediates = intermediates
        self._issuing = self._made()
        self._roots: tuple[bytes, ...] = (self._issuing.root,)
        self._changed = asyncio.Event()

    @property
    def root(self) -> bytes:
        """The root that signs now, DER."""
        return self._issuing.root

    @property
    def root_id(self) -> str:
        """Its subject key identifier."""
        return subject_key_id(load_certificate(self.root))

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        """A signing certificate for the key in ``csr``."""
        if self.failure is not None:
            raise self.failure
        facts = parse_csr(csr)
        assert facts.spiffe_id == self.trust_domain.id
        self.minted += 1
        issuer = profiles.Issuer.of([*self._issuing.between, self.root][0], self.trust_domain)
        valid = profiles.lifetime(self._now(), min(ttl, self._longest or ttl), issuer.not_after)
        builder = profiles.intermediate_ca(facts.public_key, valid, issuer, None)
        issued = builder.sign(self._issuing.key, SHA256()).public_bytes(Encoding.DER)
        return UpstreamChain(chain=(issued, *self._issuing.between), roots=self._roots)

    async def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The roots: now, and after every change."""
        while True:
            changed, roots = self._changed, self._roots
            yield roots
            if roots == self._roots:
                await changed.wait()

    def add_root(self) -> bytes:
        """A new root beside the others; from now on it signs.  Returns it."""
        self._issuing = self._made()
        self._become((*self._roots, self._issuing.root))
        return self._issuing.root

    def drop_root(self, root: bytes) -> None:
        """Publish a root no more."""
        self._become(tuple(each for each in self._roots if each != root))

    def _become(self, roots: tuple[bytes, ...]) -> None:
        self._roots = roots
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()

    def _made(self) -> _Hierarchy:
        key = generate_key()
        valid = profiles.lifetime(self._now(), self._ttl)
        builder = profiles.self_signed_ca(self.trust_domain, key.public_key(), valid)
        root = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
        between: tuple[bytes, ...] = ()
        for _ in range(self._intermediates):
            issuer, lower = profiles.Issuer.of([*between, root][0], self.trust_domain), generate_key()
            builder = profiles.intermediate_ca(lower.public_key(), valid, issuer, None)
            between = (builder.sign(key, SHA256()).public_bytes(Encoding.DER), *between)
            key = lower
        return _Hierarchy(root, between, key)
