"""What no longer counts although it has not expired: a value that only grows stricter.

A list holds *revocations*, each of one target, and answers in constant time whether a certificate or a token is
meant by one of them.  Lists are merged, never replaced: of two revocations of the same target the one with the
higher version holds, and one that a newer list does not mention stays until it expires.  So nobody who can
withhold, repeat or reorder lists, or bring back an old one, makes anything valid again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import ClassVar, Final, TypeAlias

from vestibule.errors import VestibuleError
from vestibule.spiffe.codes import MALFORMED_REVOCATION
from vestibule.spiffe.ids import SpiffeId, TrustDomain

MARK_BITS: Final = 64
"""The upper bits of a serial number that say through which agent a certificate was issued."""

MAX_SERIAL: Final = 2**159 - 1  # RFC 5280, section 4.1.2.2
MAX_NOTE: Final = 200
MAX_NAME: Final = 4096
MAX_VERSION: Final = 2**63 - 1

_BELOW: Final = "below"
_HEX = re.compile(r"[0-9a-f]{2,128}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_MARK = re.compile(r"[0-9a-f]{16}")
_DECIMAL = re.compile(r"[1-9][0-9]{0,47}")


class Reason(Enum):
    """Why something is revoked, in the words of RFC 5280 (section 5.3.1)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedCertificate:
    """One certificate: its serial number, under the authority that signed it (key identifier, lower-case hex)."""

    authority_id: str
    serial: int
    kind: ClassVar[str] = "certificate"

    @property
    def name(self) -> str:
        """``AUTHORITY-ID/SERIAL``, the serial in decimal."""
        return f"{self.authority_id}/{self.serial}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedAuthority:
    """A signing certificate and everything below it: its SHA-256, and that of its public key, in lower-case hex.

    With the key, every other certificate of that key is meant, too: what is stolen is a key, not a certificate.
    With the ``authority_id`` (its key identifier), what it signed is known also by chains that leave it out because it
    is a root.  That is a convenience: a thief writes what he likes there, and verifiers take no revoked root for one.
    """

    fingerprint: str
    key: str = ""
    authority_id: str = ""
    kind: ClassVar[str] = "authority"

    @property
    def name(self) -> str:
        """``FINGERPRINT``, ``FINGERPRINT/KEY`` or ``FINGERPRINT/KEY/AUTHORITY-ID``."""
        return "/".join(each for each in (self.fingerprint, self.key, self.authority_id) if each)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedJwtKey:
    """A key of a trust domain that JWT-SVIDs are signed with, by its ``kid``."""

    trust_domain: TrustDomain
    key_id: str
    kind: ClassVar[str] = "jwt-key"

    @property
    def name(self) -> str:
        """``TRUST-DOMAIN/KID``."""
        return f"{self.trust_domain}/{self.key_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedIdentity:
    """Everything that proves a SPIFFE ID: all of it, or what was issued before an instant (a whole second)."""

    spiffe_id: SpiffeId
    issued_before: datetime | None = None
    kind: ClassVar[str] = "identity"

    @property
    def name(self) -> str:
        """The SPIFFE ID."""
        return str(self.spiffe_id)

    def means(self, issued_at: datetime | None) -> bool:
        """Whether something issued then is meant; what does not say when it was issued always is."""
        return self.issued_before is None or issued_at is None or issued_at < self.issued_before


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedAgent:
    """Everything that was issued through an agent while it had this mark (``MARK_BITS``)."""

    agent_id: SpiffeId
    mark: int
    kind: ClassVar[str] = "agent"

    @property
    def name(self) -> str:
        """``SPIFFE-ID#MARK``, the mark as 16 hexadecimal digits."""
        return f"{self.agent_id}#{self.mark:016x}"


Target: TypeAlias = RevokedCertificate | RevokedAuthority | RevokedJwtKey | RevokedIdentity | RevokedAgent


def parse_target(kind: str, name: str, issued_before: datetime | None = None) -> Target:
    """The target of that kind and name, as ``Target.kind`` and ``.name`` give them.  Raises: VST1403, VST1400."""
    if len(name) > MAX_NAME:
        raise MALFORMED_REVOCATION.error(f"the name of a revoked {kind[:20]} is too long")
    match kind:
        case RevokedCertificate.kind:
            authority, _, serial = name.partition("/")
            if not _HEX.fullmatch(authority) or not _DECIMAL.fullmatch(serial) or int(serial) > MAX_SERIAL:
                raise _malformed(kind, name)
            return RevokedCertificate(authority_id=authority, serial=int(serial))
        case RevokedAuthority.kind:
            fingerprint, *rest = name.split("/")
            key, authority_id = (*rest, "", "")[:2]
            if len(rest) > 2 or not all(map(_FINGERPRINT.fullmatch, [fingerprint, *rest[:1]])):
                raise _malformed(kind, name)
            if rest[1:] and not _HEX.fullmatch(authority_id):
                raise _malformed(kind, name)
            return RevokedAuthority(fingerprint=fingerprint, key=key, authority_id=authority_id)
        case RevokedJwtKey.kind:
            domain, _, key_id = name.partition("/")
            if not key_id:
                raise _malformed(kind, name)
            return RevokedJwtKey(trust_domain=TrustDomain.parse(domain), key_id=key_id)
        case RevokedIdentity.kind:
            if issued_before is not None and issued_before.microsecond:
                raise _malformed(kind, name)
            spiffe_id = SpiffeId.parse(name)
            if not spiffe_id.path:
                raise _malformed(kind, name)
            return RevokedIdentity(spiffe_id=spiffe_id, issued_before=issued_before)
        case RevokedAgent.kind:
            agent, _, mark = name.partition("#")
            if not _MARK.fullmatch(mark) or not int(mark, 16):
                raise _malformed(kind, name)
            return RevokedAgent(agent_id=SpiffeId.parse(agent), mark=int(mark, 16))
    raise MALFORMED_REVOCATION.error(f"{kind[:40]!r} is no kind of thing that can be revoked")


def _malformed(kind: str, name: str) -> VestibuleError:
    return MALFORMED_REVOCATION.error(f"{name[:120]!r} does not name a revoked {kind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One target, why and by whom it is revoked, and until when that has to be known.

    ``expires_at`` is when nothing that the target means can be valid any more; ``None``: never.  ``version`` is
    that of the list in which this was last changed.
    """

    target: Target
    at: datetime
    reason: Reason = Reason.UNSPECIFIED
    note: str = ""
    actor: str = ""
    expires_at: datetime | None = None
    version: int = 0

    @property
    def id(self) -> str:
        """What the revocation is known by; the same for every revocation of the same thing."""
        return f"{self.target.kind}:{self.target.name}"

    def is_over(self, now: datetime) -> bool:
        """Whether nothing that it means can be valid any more."""
        return self.expires_at is not None and self.expires_at <= now

    def __str__(self) -> str:
        """As a refusal tells it: what is revoked, since when and why; no note and no actor."""
        since = f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.target.kind} {self.target.name} was revoked at {since} ({self.reason.value})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CertificateFacts:
    """What of a certificate a list is asked with.

    ``fingerprint`` and ``key`` are SHA-256 in hex, of the certificate and of its public key (SubjectPublicKeyInfo);
    ``authority_id`` is the issuer's key identifier in hex, empty where the certificate does not say it.
    """

    fingerprint: str
    key: str
    authority_id: str
    serial: int
    spiffe_id: SpiffeId | None
    not_before: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Revocations:
    """An immutable list and its indexes.  ``Revocations()`` revokes nothing.

    Equal lists are the same object: comparing a hundred thousand revocations is nobody's need.
    """

    version: int = 0
    entries: tuple[Revocation, ...] = ()
    """In the order of their versions."""
    _by_id: dict[str, Revocation] = field(init=False, repr=False)
    _index: dict[object, Revocation] = field(init=False, repr=False)
    _first_end: datetime | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        entries = tuple(sorted(self.entries, key=_order))
        by_id = {each.id: each for each in entries}
        index = {key: each for each in entries for key in _keys(each.target)}
        newest = entries[-1].version if entries else 0
        if len(by_id) != len(entries) or newest > self.version:
            raise MALFORMED_REVOCATION.error("a list names one thing twice, or is older than what it holds")
        self._fill(
            entries, by_id, index, min((each.expires_at for each in entries if each.expires_at), default=None)
        )

    def _fill(
        self,
        entries: tuple[Revocation, ...],
        by_id: dict[str, Revocation],
        index: dict[object, Revocation],
        first_end: datetime | None,
    ) -> None:
        """Set what is not to change from now on; the dictionaries are nobody else's."""
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "_by_id", by_id)
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_first_end", first_end)

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, revocation_id: str) -> Revocation | None:
        """The revocation of this ``id``."""
        return self._by_id.get(revocation_id)

    def merged(self, changes: Iterable[Revocation], version: int, now: datetime) -> Revocations:
        """This list with changes, as of ``version``: of the same thing the newer revocation holds.

        Without those that are over.  The version never falls; ``self`` is returned where nothing changes.
        """
        newer: dict[str, Revocation] = {}
        for each in changes:
            if self._is_news(each) and not each.is_over(now):
                known = newer.get(each.id)
                newer[each.id] = each if known is None or each.version > known.version else known
        version = max([self.version, version, *(each.version for each in newer.values())])
        over = self._first_end is not None and self._first_end <= now
        if not newer and not over and version == self.version:
            return self
        if over or not self._are_all_after(newer.values()):
            kept = {each.id: each for each in self.entries if not each.is_over(now)}
            return Revocations(version, tuple({**kept, **newer}.values()))
        return self._extended(newer, version)

    def _are_all_after(self, changes: Iterable[Revocation]) -> bool:
        newest = self.entries[-1].version if self.entries else 0
        return all(each.version > newest for each in changes)

    def _extended(self, newer: dict[str, Revocation], version: int) -> Revocations:
        """Some more at the end of a long list, in a fraction of the time of making it anew."""
        by_id, index, entries = self._by_id.copy(), self._index.copy(), self.entries
        if replaced := newer.keys() & by_id.keys():
            entries = tuple(each for each in entries if each.id not in replaced)
            for key in [key for each in replaced for key in _keys(by_id[each].target)]:
                index.pop(key, None)
        by_id |= newer
        index |= {key: each for each in newer.values() for key in _keys(each.target)}
        ends = [each.expires_at for each in newer.values() if each.expires_at]
        ends += [self._first_end] if self._first_end else []
        made = object.__new__(Revocations)
        object.__setattr__(made, "version", version)
        made._fill((*entries, *sorted(newer.values(), key=_order)), by_id, index, min(ends, default=None))
        return made

    def _is_news(self, revocation: Revocation) -> bool:
        known = self._by_id.get(revocation.id)
        return known is None or revocation.version > known.version

    def since(self, version: int) -> tuple[Revocation, ...]:
        """What changed after that version, oldest first."""
        return self.entries[bisect_right(self.entries, version, key=lambda each: each.version) :]

    def next_expiry(self) -> datetime | None:
        """When the first of the revocations is over, at the earliest; ``None`` if none will be."""
        return self._first_end

    # -------------------------------------------------------------------------------------- asking

    def of_certificate(self, facts: CertificateFacts, now: datetime) -> Revocation | None:
        """Why a certificate does not count; ``None`` if it is not revoked itself (its signers are asked apart)."""
        found = self._index
        for key in (
            (RevokedCertificate.kind, facts.authority_id, facts.serial),
            (RevokedAuthority.kind, facts.fingerprint),
            (RevokedAuthority.kind, facts.key),
            (RevokedAuthority.kind, _BELOW, facts.authority_id),
            (RevokedAgent.kind, facts.serial >> MARK_BITS),
        ):
            why = found.get(key)
            if why is not None and not why.is_over(now):
                return why
        return self.of_identity(facts.spiffe_id, facts.not_before, now) if facts.spiffe_id else None

    def of_identity(
        self, spiffe_id: SpiffeId, issued_at: datetime | None, now: datetime
    ) -> Revocation | None:
        """Why something that proves this ID, and was issued then, does not count."""
        why = self._index.get((RevokedIdentity.kind, spiffe_id))
        if why is None or why.is_over(now):
            return None
        assert isinstance(why.target, RevokedIdentity)
        return why if why.target.means(issued_at) else None

    def of_authority(self, fingerprint: str, key: str, now: datetime) -> Revocation | None:
        """Why a signing certificate, and everything below it, does not count."""
        for each in (fingerprint, key):
            why = self._index.get((RevokedAuthority.kind, each))
            if why is not None and not why.is_over(now):
                return why
        return None

    def of_jwt_key(self, trust_domain: TrustDomain, key_id: str, now: datetime) -> Revocation | None:
        """Why a JWT authority's tokens do not count."""
        why = self._index.get((RevokedJwtKey.kind, trust_domain, key_id))
        return None if why is None or why.is_over(now) else why

    def of_mark(self, mark: int, now: datetime) -> Revocation | None:
        """Why what was issued under a mark does not count."""
        why = self._index.get((RevokedAgent.kind, mark))
        return None if why is None or why.is_over(now) else why

    def of_serial(self, serial: int, now: datetime) -> Revocation | None:
        """Why a certificate of this serial number does not count, whichever authority signed it."""
        why = self._index.get((RevokedCertificate.kind, serial))
        if why is not None and not why.is_over(now):
            return why
        return self.of_mark(serial >> MARK_BITS, now)

    def issuing(self, spiffe_id: SpiffeId, now: datetime) -> Revocation | None:
        """Why nothing may be issued to an ID at ``now``."""
        return self.of_identity(spiffe_id, now, now)

    def earliest_start(self, spiffe_id: SpiffeId) -> datetime | None:
        """The earliest beginning that a new certificate of an ID may have, so that it is not taken for an old one."""
        why = self._index.get((RevokedIdentity.kind, spiffe_id))
        return why.target.issued_before if why and isinstance(why.target, RevokedIdentity) else None


def _order(each: Revocation) -> tuple[int, str]:
    return each.version, each.id


def _keys(target: Target) -> Iterable[object]:
    match target:
        case RevokedCertificate():
            yield (target.kind, target.authority_id, target.serial)
            yield (target.kind, target.serial)
        case RevokedAuthority():
            yield (target.kind, target.fingerprint)
            if target.key:
                yield (target.kind, target.key)
            if target.authority_id:
                yield (target.kind, _BELOW, target.authority_id)
        case RevokedJwtKey():
            yield (target.kind, target.trust_domain, target.key_id)
        case RevokedIdentity():
            yield (target.kind, target.spiffe_id)
        case RevokedAgent():
            yield (target.kind, target.mark)
