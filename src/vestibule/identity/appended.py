"""What operators put into the trust domain's bundle: authorities whose private keys are elsewhere.

A server of another make that serves the same trust domain, say, until it is replaced.  They stay until they end or are
revoked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import APPENDED_REFUSED, MISSING_PARAMETER
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.pki.jwk import load_jwt_key
from vestibule.records import AppendedAuthority, AppendedKind
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain
from vestibule.store import Store

MAX_KEY_ID = 256
MAX_APPENDED = 100
"""Every agent and workload gets them all."""


class Appended:
    """Knows what was appended, and is not over."""

    def __init__(self, store: Store, audit: Audit, clock: Clock, trust_domain: TrustDomain) -> None:
        self._kept = store.appended_authorities
        self._bundles = store.bundles
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._known: dict[str, AppendedAuthority] = {}

    async def start(self) -> None:
        """Read what is kept."""
        self._known = {each.id: each for each in await self._kept.all()}

    def all(self) -> list[AppendedAuthority]:
        """All of it."""
        return list(self._known.values())

    def ends(self) -> list[datetime]:
        """When something of it is over."""
        return [each.not_after for each in self._known.values() if each.not_after is not None]

    def certificates(self) -> list[bytes]:
        """The X.509 authorities."""
        return [each.material for each in self._of(AppendedKind.X509)]

    def beside(
        self, tokens: tuple[JwtAuthority, ...], kind: AppendedKind, revoked: Callable[[str], bool]
    ) -> tuple[JwtAuthority, ...]:
        """``tokens`` with those of a kind that were appended; an ID is said only once."""
        taken = {key.key_id for key in tokens}
        more = (_token(each) for each in self._of(kind) if each.key_id not in taken)
        return (*tokens, *(key for key in more if not revoked(key.key_id)))

    def without(self, bundle: TrustBundle) -> TrustBundle:
        """The bundle as it would be had nothing been appended."""
        certificates = set(self.certificates())
        return replace(
            bundle,
            x509_authorities=tuple(der for der in bundle.x509_authorities if der not in certificates),
            jwt_authorities=self._less(bundle.jwt_authorities, AppendedKind.JWT),
            wit_authorities=self._less(bundle.wit_authorities, AppendedKind.WIT),
        )

    def namesakes(self, key: JwtAuthority) -> list[JwtAuthority]:
        """Other appended keys under the ID of this one."""
        tokens = (_token(each) for each in self._known.values() if each.kind is not AppendedKind.X509)
        return [each for each in tokens if each.key_id == key.key_id and each.public_key != key.public_key]

    async def append(
        self,
        certificates: Sequence[bytes],
        jwt: Sequence[JwtAuthority],
        wit: Sequence[JwtAuthority],
        bundle: TrustBundle,
        revoked: Callable[[str], bool],
        actor: str,
    ) -> None:
        """Keep what is not in ``bundle`` yet: all of it, or nothing.

        1. There is something.
        2. Certificates are of authorities, not expired, and in no other trust domain's name.
        3. Keys are such as tokens are verified with, and have an ID and an end yet to come, if they have one.
        4. No ID is that of another key.
        5. None was revoked here (``revoked``, by ID or subject key ID).
        6. None is an authority of a federated trust domain: it would speak for both.

        Raises: VST1202 (step 1), VST1005 (2), VST1316.
        """
        if not certificates and not jwt and not wit:  # 1
            raise MISSING_PARAMETER.error("no authorities to append")
        records = [self._certificate(der, revoked) for der in certificates]  # 2, 5
        records += [self._key(key, AppendedKind.JWT, revoked) for key in jwt]  # 3, 5
        records += [self._key(key, AppendedKind.WIT, revoked) for key in wit]
        present = set(bundle.x509_authorities)
        ids = {key.key_id: (AppendedKind.JWT, key.public_key) for key in bundle.jwt_authorities}
        ids |= {key.key_id: (AppendedKind.WIT, key.public_key) for key in bundle.wit_authorities}
        new: dict[str, AppendedAuthority] = {}
        for record in records:
            if record.kind is AppendedKind.X509:
                if record.material in present:
                    continue
            elif record.key_id in ids:
                if ids[record.key_id] != (record.kind, record.material):  # 4
                    raise APPENDED_REFUSED.error(f"the key ID {record.key_id!r} is that of another key")
                continue
            else:
                ids[record.key_id] = (record.kind, record.material)
            new[record.id] = record
        await self._check_foreign(new.values())  # 6
        if len(self._known) + len(new) > MAX_APPENDED:
            raise APPENDED_REFUSED.error(f"more than {MAX_APPENDED} authorities would be appended")
        if new:
            await self._audit.record([_event("bundle.append", each, actor) for each in new.values()])
            await self._kept.put(*new.values())
            self._known |= new

    def _certificate(self, der: bytes, revoked: Callable[[str], bool]) -> AppendedAuthority:
        certificate = load_certificate(der)
        if not _is_authority(certificate):
            raise APPENDED_REFUSED.error("the certificate is not one of a certificate authority")
        now, ends = self._clock.now(), certificate.not_valid_after_utc
        if ends <= now:
            raise APPENDED_REFUSED.error(f"the certificate has expired at {ends.isoformat()}")
        for name in _uris(certificate):
            if name.lower().rstrip("/") != str(self._trust_domain.id):
                raise APPENDED_REFUSED.error(f"the certificate is that of {name[:200]!r}")
        if revoked(subject_key_id(certificate)):
            raise APPENDED_REFUSED.error("the authority was tainted or revoked here")
        return _record(AppendedKind.X509, "", der, now, ends)

    def _key(
        self, key: JwtAuthority, kind: AppendedKind, revoked: Callable[[str], bool]
    ) -> AppendedAuthority:
        if not 0 < len(key.key_id) <= MAX_KEY_ID:
            raise APPENDED_REFUSED.error("a key has no ID, or an overlong one")
        try:
            load_jwt_key(key.public_key)
        except (ValueError, VestibuleError) as error:
            raise APPENDED_REFUSED.error(f"{key.key_id!r} is not a public key of a known kind") from error
        now = self._clock.now()
        if key.expires_at is not None and key.expires_at <= now:
            raise APPENDED_REFUSED.error(f"the key {key.key_id!r} has expired")
        if revoked(key.key_id):
            raise APPENDED_REFUSED.error(f"the key {key.key_id!r} was revoked here")
        return _record(kind, key.key_id, key.public_key, now, key.expires_at)

    async def _check_foreign(self, records: Iterable[AppendedAuthority]) -> None:
        ours = {_public_key(each) for each in records}
        if not ours:
            return
        for bundle in (await self._bundles.page(0)).items:
            if bundle.trust_domain == self._trust_domain:
                continue
            theirs = {_key_of(load_certificate(der)) for der in bundle.x509_authorities}
            theirs |= {key.public_key for key in (*bundle.jwt_authorities, *bundle.wit_authorities)}
            if not ours.isdisjoint(theirs):
                raise APPENDED_REFUSED.error(f"an authority of {bundle.trust_domain} is among them")

    async def withdraw(self, appended_id: str, actor: str) -> None:
        """Forget one now."""
        if (found := self._known.get(appended_id)) is not None:
            await self._forget(found, "bundle.withdraw", actor)

    async def forget_expired(self) -> None:
        """Forget what is over."""
        now = self._clock.now()
        for each in list(self._known.values()):
            if each.not_after is not None and each.not_after <= now:
                await self._forget(each, "bundle.expire", "server")

    async def _forget(self, record: AppendedAuthority, action: str, actor: str) -> None:
        await self._audit.record([_event(action, record, actor)])
        await self._kept.delete(record.id)
        del self._known[record.id]

    def _of(self, kind: AppendedKind) -> list[AppendedAuthority]:
        return [each for each in self._known.values() if each.kind is kind]

    def _less(self, keys: tuple[JwtAuthority, ...], kind: AppendedKind) -> tuple[JwtAuthority, ...]:
        appended = {(each.key_id, each.material) for each in self._of(kind)}
        return tuple(key for key in keys if (key.key_id, key.public_key) not in appended)


def _record(
    kind: AppendedKind, key_id: str, material: bytes, now: datetime, ends: datetime | None
) -> AppendedAuthority:
    facts = b"\0".join((kind.value.encode(), key_id.encode(), material))
    return AppendedAuthority(
        id=hashlib.sha256(facts).hexdigest(),
        kind=kind,
        key_id=key_id,
        material=material,
        not_before=now,
        not_after=ends,
    )


def _token(record: AppendedAuthority) -> JwtAuthority:
    return JwtAuthority(key_id=record.key_id, public_key=record.material, expires_at=record.not_after)


def _event(action: str, record: AppendedAuthority, actor: str) -> AuditEvent:
    x509_kind = record.kind is AppendedKind.X509
    subject = subject_key_id(load_certificate(record.material)) if x509_kind else record.key_id
    details = {"kind": record.kind.value, "sha256": hashlib.sha256(record.material).hexdigest()}
    if record.not_after is not None:
        details["not_after"] = record.not_after.isoformat()
    return AuditEvent(actor=actor, action=action, subject=subject, details=details)


def _public_key(record: AppendedAuthority) -> bytes:
    return _key_of(load_certificate(record.material)) if record.kind is AppendedKind.X509 else record.material


def _key_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)
