"""Revoking an authority of ours without a failed handshake for those who are not meant.

Issuing moves to another authority, whatever the old one signed is marked as tainted, so that agents replace it, and
only then does the old one leave the bundle.  An authority that is not ours (an intermediate of another server below
the same root, say) only goes on the list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from vestibule.identity.codes import NOTHING_TO_REVOKE, WOULD_CUT_EVERYTHING
from vestibule.pki.certificates import load_certificate
from vestibule.pki.profiles import key_identifier
from vestibule.pki.revocation import certificate_facts, fingerprint, key_fingerprint
from vestibule.records import AppendedAuthority, AppendedKind, Authority, AuthorityState, JwtKey
from vestibule.spiffe import RevokedAuthority, RevokedCertificate, RevokedJwtKey, TrustBundle, TrustDomain

_FINGERPRINT_DIGITS: Final = 64
_GONE: Final = (AuthorityState.TAINTED, AuthorityState.REVOKED)


class Lifecycle(Protocol):
    """The authorities' own steps (``identity.authorities``)."""

    def bundle(self) -> TrustBundle: ...

    def all(self) -> Sequence[Authority]: ...

    def appended(self) -> Sequence[AppendedAuthority]: ...

    async def withdraw(self, appended_id: str, actor: str) -> None: ...

    async def prepare(self, actor: str) -> Authority: ...

    async def activate(self, authority_id: str, actor: str) -> object: ...

    async def taint(self, authority_id: str, actor: str) -> object: ...

    async def revoke(self, authority_id: str, actor: str) -> object: ...

    async def prepare_jwt(self, actor: str) -> JwtKey: ...

    async def activate_jwt(self, key_id: str, actor: str) -> object: ...

    async def taint_jwt(self, key_id: str, actor: str) -> object: ...

    async def revoke_jwt(self, key_id: str, actor: str) -> object: ...


class Signers:
    """The authorities, as far as revoking looks at them."""

    def __init__(self, lifecycle: Lifecycle, jwt_keys: Callable[[], Sequence[JwtKey]]) -> None:
        self.lifecycle: Final = lifecycle
        self.jwt_keys: Final = jwt_keys

    def ids(self) -> list[str]:
        """The IDs of all X.509 authorities of this server."""
        return [each.id for each in self.lifecycle.all()]

    def end_of(self, authority_id: str) -> datetime | None:
        """When an authority of this server expires; ``None`` for others'."""
        return next((each.not_after for each in self.lifecycle.all() if each.id == authority_id), None)

    def latest_end(self) -> datetime:
        """When everything has expired that anybody could have issued in this trust domain until now.

        Nothing outlives its signers, and others than this server may issue below the same roots.
        """
        bundle = self.lifecycle.bundle()
        ends = [each.not_after for each in self.lifecycle.all()]
        ends += [load_certificate(der).not_valid_after_utc for der in bundle.x509_authorities]
        ends += [each.not_after for each in self.jwt_keys()]
        return max(ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRevocation:
    """One authority to be revoked; ``x509`` or ``jwt`` where it is this server's own.

    ``appended`` is the one that an operator put into the bundle.  ``certificate`` is that of the authority, where it
    is known and has a signer of its own.
    """

    subject: str
    target: RevokedAuthority | RevokedJwtKey
    not_after: datetime | None
    x509: Authority | None = None
    jwt: JwtKey | None = None
    appended: AppendedAuthority | None = None
    certificate: RevokedCertificate | None = None

    @classmethod
    def find(cls, signers: Signers, trust_domain: TrustDomain, name: str, der: bytes) -> AuthorityRevocation:
        """By ID, fingerprint or certificate.  Raises: VST1005, VST1251, VST1253."""
        wanted = (fingerprint(der) if der else name).lower()
        for authority in signers.lifecycle.all():
            own = authority.chain[0]
            if wanted in (authority.id, fingerprint(own)):
                target = RevokedAuthority(
                    fingerprint=fingerprint(own), key=key_fingerprint(own), authority_id=authority.id
                )
                return cls(
                    subject=authority.id,
                    target=target,
                    not_after=authority.not_after,
                    x509=authority,
                    certificate=_itself(own),
                )
        for key in signers.jwt_keys():
            if wanted == key.id:
                jwt_target = RevokedJwtKey(trust_domain=trust_domain, key_id=key.id)
                return cls(subject=key.id, target=jwt_target, not_after=key.not_after, jwt=key)
        for appended in signers.lifecycle.appended():
            if appended.kind is AppendedKind.X509 and wanted == fingerprint(appended.material):
                return replace(cls._foreign(signers, wanted, appended.material), appended=appended)
            if appended.kind is AppendedKind.JWT and wanted == appended.key_id:
                jwt_target = RevokedJwtKey(trust_domain=trust_domain, key_id=wanted)
                return cls(subject=wanted, target=jwt_target, not_after=appended.not_after, appended=appended)
        return cls._foreign(signers, wanted, der)

    @classmethod
    def _foreign(cls, signers: Signers, wanted: str, der: bytes) -> AuthorityRevocation:
        if not der and (len(wanted) != _FINGERPRINT_DIGITS or wanted.strip("0123456789abcdef")):
            raise NOTHING_TO_REVOKE.error(
                f"{wanted[:80]!r} is no authority of this server",
                advice="Authorities of other servers are named by their certificate, or by its SHA-256.",
            )
        above = {fingerprint(each): each for each in _above(signers.lifecycle)}
        if wanted in above or (der and key_fingerprint(der) in map(key_fingerprint, above.values())):
            raise WOULD_CUT_EVERYTHING.error("what this server issues is below this authority")
        key = key_fingerprint(der) if der else ""
        own_id = key_identifier(load_certificate(der).public_key()).digest.hex() if der else ""
        ends = load_certificate(der).not_valid_after_utc if der else None
        return cls(
            subject=wanted,
            target=RevokedAuthority(fingerprint=wanted, key=key, authority_id=own_id),
            not_after=ends,
            certificate=_itself(der) if der else None,
        )

    async def move_away(self, signers: Signers, actor: str, grace: Callable[[], Awaitable[None]]) -> None:
        """Let another authority sign, and have replaced what this one signed.

        ``grace`` is awaited between the publication of a new authority and its first signature.
        """
        lifecycle = signers.lifecycle
        if self.x509 is not None:
            state = _state_of(self.x509.id, lifecycle.all())
            if state is AuthorityState.PREPARED:
                await lifecycle.prepare(actor)  # takes its place
            if state is AuthorityState.ACTIVE:
                next_one = _prepared(lifecycle.all())
                if next_one is None:
                    next_one = (await lifecycle.prepare(actor)).id
                    await grace()
                await lifecycle.activate(next_one, actor)
            if state not in _GONE and not self._is_below_upstream:
                await lifecycle.taint(self.x509.id, actor)
        elif self.jwt is not None:
            state = _state_of(self.jwt.id, signers.jwt_keys())
            if state is AuthorityState.PREPARED:
                await lifecycle.prepare_jwt(actor)
            if state is AuthorityState.ACTIVE:
                next_one = _prepared(signers.jwt_keys())
                if next_one is None:
                    next_one = (await lifecycle.prepare_jwt(actor)).id
                    await grace()
                await lifecycle.activate_jwt(next_one, actor)
            if state not in _GONE:
                await lifecycle.taint_jwt(self.jwt.id, actor)

    @property
    def is_foreign(self) -> bool:
        """Whether it is not in our bundle itself: it is another server's, or an intermediate."""
        if self.appended is not None:
            return False
        return self.jwt is None and (self.x509 is None or self._is_below_upstream)

    @property
    def _is_below_upstream(self) -> bool:
        """It never was in the bundle, so there is nothing to taint: the list, and new certificates, are all."""
        return self.x509 is not None and bool(self.x509.upstream_authority_id)

    async def finish(self, signers: Signers, actor: str) -> None:
        """Take it out of the bundle."""
        lifecycle = signers.lifecycle
        if self.appended is not None:
            await lifecycle.withdraw(self.appended.id, actor)
        elif self.x509 is not None and not self._is_below_upstream:
            if _state_of(self.x509.id, lifecycle.all()) is AuthorityState.TAINTED:
                await lifecycle.revoke(self.x509.id, actor)
        elif self.jwt is not None and _state_of(self.jwt.id, signers.jwt_keys()) is AuthorityState.TAINTED:
            await lifecycle.revoke_jwt(self.jwt.id, actor)


def _above(lifecycle: Lifecycle) -> list[bytes]:
    """The certificates above what is signed now, but for the active authority itself, which can be replaced."""
    active = [each for each in lifecycle.all() if each.state is AuthorityState.ACTIVE]
    appended = {each.material for each in lifecycle.appended()}
    roots = [der for der in lifecycle.bundle().x509_authorities if der not in appended]
    return [*roots, *(der for each in active for der in each.chain[1:])]


def _state_of(name: str, signers: Sequence[Authority] | Sequence[JwtKey]) -> AuthorityState | None:
    return next((each.state for each in signers if each.id == name), None)


def _prepared(signers: Sequence[Authority] | Sequence[JwtKey]) -> str | None:
    return next((each.id for each in signers if each.state is AuthorityState.PREPARED), None)


def _itself(der: bytes) -> RevokedCertificate | None:
    """A signing certificate by its number, as its signer gave it; None where it has no signer but itself."""
    facts = certificate_facts(der)
    if facts.authority_id in ("", key_identifier(load_certificate(der).public_key()).digest.hex()):
        return None
    return RevokedCertificate(authority_id=facts.authority_id, serial=facts.serial)
