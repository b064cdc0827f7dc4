"""Which callees' certificates are in wrong hands, and the lists by which callers tell them from the right ones.

An Envoy that calls looks at certificate revocation lists only where it has to, since it then accepts nothing from an
authority without one.  Lists are asked for about those to whom something that is revoked was issued; and about
everybody, once a signing certificate is revoked, or something of which nobody knows to whom it was issued.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon, first
from vestibule.identity.revocation import IssuedCertificates
from vestibule.records import Authority, AuthorityState, Distrust, PublishedCrl, identity_digest
from vestibule.spiffe import (
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
)
from vestibule.spiffe.revocations import Target

LOOK_AGAIN: Final = timedelta(seconds=2)
"""After which lists that are older than what is revoked are looked for anew."""

_WITHOUT_LIST: Final = (AuthorityState.REVOKED, AuthorityState.PREPARED)
"""Authorities of which no certificate is to be believed, or is there yet."""

_log = logging.getLogger(__name__)


class RevocationNews(Protocol):
    """What is revoked (``identity.revocation_list``)."""

    @property
    def now(self) -> Revocations: ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int: ...


class Lists(Protocol):
    """The certificate revocation lists of this server's authorities (``identity.crl_publishing``)."""

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int: ...

    def current(self) -> Sequence[PublishedCrl]: ...


class Distrusting:
    """Follows what is revoked, and what lists there are."""

    def __init__(
        self,
        revocations: RevocationNews,
        lists: Lists,
        issued: IssuedCertificates,
        authorities: Callable[[], Sequence[Authority]],
        clock: Clock,
    ) -> None:
        self._revocations = revocations
        self._lists = lists
        self._issued = issued
        self._authorities = authorities
        self._clock = clock
        self._beacon = Beacon()
        self._of: dict[Target, frozenset[bytes] | None] = {}
        self._told = False
        self.now = Distrust()

    @property
    def revision(self) -> int:
        """Counts the changes."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    async def run(self) -> None:
        """Never ends by itself."""
        while True:
            seen = self._revocations.revision, self._lists.revision
            await self.look()
            waits = [self._revocations.changed(seen[0]), self._lists.changed(seen[1])]
            ends = self._ends()
            await first(*waits, *([] if ends is None else [self._clock.sleep_until(ends)]))

    async def look(self) -> None:
        """Find out how things are now."""
        now = self._clock.now()
        found = await self._found(now)
        if found != self.now:
            self.now = found
            self._beacon.advance()

    def _ends(self) -> datetime | None:
        """When to look again, at the latest."""
        now, entries = self._clock.now(), self._revocations.now.entries
        ends = [each.expires_at for each in entries if each.expires_at is not None and each.expires_at > now]
        if self._is_behind():
            ends.append(now + LOOK_AGAIN)
        return min(ends, default=None)

    def _is_behind(self) -> bool:
        newest = self._revocations.now.version
        return any(each.list_version < newest for each in self._lists.current())

    async def _found(self, now: datetime) -> Distrust:
        digests, everybody, asked = set[bytes](), False, dict[Target, frozenset[bytes] | None]()
        for each in self._revocations.now.entries:
            if each.is_over(now):
                continue
            target = each.target
            # What an identity was issued grows no more once it is revoked; it is looked for once.
            meant = self._of[target] if target in self._of else await self._meant(target, now)
            asked[target] = meant
            everybody |= meant is None
            digests |= meant or frozenset()
        self._of = asked
        if not digests and not everybody:
            return Distrust()
        crl = self._crl(now)
        if not crl and not self._told:
            _log.error(
                "callers cannot be kept from servers with stolen keys before their certificates expire: not all "
                "authorities of this server have a certificate revocation list"
            )
        self._told = not crl
        return Distrust(identities=frozenset(digests), everybody=everybody, crl=crl)

    async def _meant(self, target: Target, now: datetime) -> frozenset[bytes] | None:
        """The identities that have something of it; None for everybody."""
        try:
            match target:
                case RevokedIdentity():
                    # Of one that is revoked for good no instance is left, and nobody calls it.
                    return frozenset({identity_digest(target.spiffe_id)})
                case RevokedCertificate():
                    found = await self._issued.by_serial(target.serial, now)
                    return frozenset(each.identity for each in found) or None
                case RevokedAgent():
                    return frozenset(each.identity for each in await self._issued.by_mark(target.mark, now))
                case RevokedAuthority():
                    return None
        except (VestibuleError, OSError) as error:
            _log.error(
                "cannot tell whose certificates are revoked, so that everybody's are doubted: %s", error
            )
            return None
        return frozenset()

    def _crl(self, now: datetime) -> bytes:
        """The lists of all authorities whose certificates count; empty if one of them has none."""
        by_authority = {each.authority_id: each for each in self._lists.current() if each.next_update > now}
        wanted = [each for each in self._authorities() if each.state not in _WITHOUT_LIST]
        if any(each.id not in by_authority for each in wanted if each.not_after > now):
            return b""
        found = [by_authority[each.id] for each in wanted if each.id in by_authority]
        return b"".join(_pem(each.der) for each in sorted(found, key=lambda each: each.authority_id))


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN X509 CRL-----\n{lines}\n-----END X509 CRL-----\n".encode()
