"""What stands in the files: names, bytes and modes.  Nothing is read or written here."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Final, TypeVar

from vestibule.calls.workload_api import X509Context
from vestibule.pki.bundles import to_bundle_map, to_jwt_jwks
from vestibule.pki.certificates import load_certificate
from vestibule.pki.keystores import jks_keystore, jks_truststore, pkcs12_keystore, pkcs12_truststore
from vestibule.pki.pem import CERTIFICATE, pem_block
from vestibule.sdk.files.codes import BAD_LAYOUT, HINT_UNKNOWN
from vestibule.spiffe import JwtSvid, TrustBundle, TrustDomain, X509Svid

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
DEFAULT_NAMES: Final = ("svid.pem", "svid.key", "bundle.pem")
_KEY: Final = "PRIVATE KEY"
_Svid = TypeVar("_Svid", X509Svid, JwtSvid)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file; a ``secret`` one lets whoever reads it be somebody, and goes away with the identity."""

    name: str
    data: bytes = field(repr=False)
    mode: int
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtFile:
    """A file with a JWT-SVID for these audiences."""

    name: str
    audience: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which files there are; a file whose name is empty is not written.

    Without any name, every identity has ``svid.N.pem``, ``svid.N.key`` and ``bundle.N.pem``, N counting from 0.  With
    names, one identity has files of these names: the one of ``hint``, else the default one.

    ``combined`` holds key and certificates.  ``pkcs12`` and ``jks`` are keystores, ``…_trust`` truststores, all under
    ``password``.  ``federated`` puts the authorities of federated trust domains into bundles and truststores;
    ``chain_in_bundle`` moves intermediate certificates there; ``omit_expired`` leaves out authorities that ended.
    """

    certificate: str = ""
    key: str = ""
    bundle: str = ""
    combined: str = ""
    pkcs12: str = ""
    pkcs12_trust: str = ""
    jks: str = ""
    jks_trust: str = ""
    password: str = field(default="", repr=False)
    hint: str = ""
    certificate_mode: int = PUBLIC
    key_mode: int = PRIVATE
    federated: bool = False
    chain_in_bundle: bool = False
    omit_expired: bool = False
    jwts: tuple[JwtFile, ...] = ()
    jwt_mode: int = PRIVATE
    jwt_bundle: str = ""
    jwt_bundle_mode: int = PUBLIC
    jwt_bundle_of_helper: bool = False

    def check(self) -> None:
        """Raises: VST2456 when it can never be written."""
        given = self.names
        for name in given:
            # What starts with a dot is ours: locks, and sets that are being made.
            if "/" in name or "\0" in name or name.startswith(".") or name == "current":
                raise BAD_LAYOUT.error(f"{name!r} is not a name that a file here can have")
        if doubles := {name for name in given if given.count(name) > 1}:
            raise BAD_LAYOUT.error(f"several files are to be called {sorted(doubles)[0]}")
        if any((self.pkcs12, self.pkcs12_trust, self.jks, self.jks_trust)) and not self.password:
            raise BAD_LAYOUT.error("a keystore needs a password", advice="Give --password-file FILE.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names that were given."""
        given = (*self._x509_names(), *(each.name for each in self.jwts), self.jwt_bundle)
        return tuple(name for name in given if name)

    @property
    def has_x509(self) -> bool:
        """Whether X.509-SVIDs are written at all, and not only tokens."""
        return any(self._x509_names()) or not (self.jwts or self.jwt_bundle)

    @property
    def is_named(self) -> bool:
        """Whether one identity has files of given names."""
        return any(self._x509_names()) or bool(self.hint)

    def chosen(self, context: X509Context) -> X509Svid:
        """The identity whose files have names.  Raises: VST2452."""
        return _with_hint(self.hint, context.svids)

    def shown(self, context: X509Context) -> tuple[X509Svid, ...]:
        """The identities that get files.  Raises: VST2452."""
        return (self.chosen(context),) if self.is_named else context.svids

    def x509_files(self, context: X509Context, now: datetime) -> tuple[File, ...]:
        """Keys stand before the certificates that they belong to.  Raises: VST2452."""
        if not self.is_named:
            numbered = (self._numbered(context, svid, n, now) for n, svid in enumerate(context.svids))
            return tuple(chain.from_iterable(numbered))
        svid = self.chosen(context)
        names = (self.certificate, self.key, self.bundle)
        pems = self._pems(context, svid, *(names if any(self._x509_names()) else DEFAULT_NAMES), now)
        return (*pems, *self._keystores(svid, self._authorities(context, svid, now), now))

    def jwt_file(self, file: JwtFile, svids: Sequence[JwtSvid]) -> File:
        """The token of the chosen identity, and nothing else.  Raises: VST2452."""
        svid = _with_hint(self.hint, svids)
        return File(name=file.name, data=svid.token.encode(), mode=self.jwt_mode, secret=True)

    def jwt_bundle_file(self, bundles: Sequence[TrustBundle], own: TrustDomain | None) -> File:
        """The keys that tokens are verified with.

        A JWK Set (RFC 7517) of the ``own`` trust domain; with ``federated``, or where none is known to be the own one,
        a SPIFFE bundle map of all of them (SPIFFE_Trust_Domain_and_Bundle.md, section 5): sets are never merged.
        """
        mine = next((each for each in bundles if own in (None, each.trust_domain)), None)
        several = self.federated or mine is None or (own is None and len(bundles) > 1)
        if self.jwt_bundle_of_helper:
            data = _as_helper_writes(bundles)
        elif several or mine is None:
            data = to_bundle_map(bundles)
        else:
            data = to_jwt_jwks(mine)
        return File(name=self.jwt_bundle, data=data, mode=self.jwt_bundle_mode)

    def _x509_names(self) -> tuple[str, ...]:
        pems = (self.certificate, self.key, self.bundle, self.combined)
        return (*pems, self.pkcs12, self.pkcs12_trust, self.jks, self.jks_trust)

    def _numbered(self, context: X509Context, svid: X509Svid, number: int, now: datetime) -> Iterator[File]:
        names = (f"svid.{number}.pem", f"svid.{number}.key", f"bundle.{number}.pem")
        return self._pems(context, svid, *names, now)

    def _pems(
        self, context: X509Context, svid: X509Svid, certificate: str, key: str, bundle: str, now: datetime
    ) -> Iterator[File]:
        authorities = self._authorities(context, svid, now)
        shown = svid.chain[:1] if self.chain_in_bundle else svid.chain
        if bundle:
            yield File(name=bundle, data=_pem(authorities), mode=self.certificate_mode)
        if key:
            yield File(name=key, data=pem_block(_KEY, svid.key), mode=self.key_mode, secret=True)
        if certificate:
            yield File(name=certificate, data=_pem(shown), mode=self.certificate_mode)
        if self.combined:
            both = pem_block(_KEY, svid.key) + _pem(shown)
            yield File(name=self.combined, data=both, mode=self.key_mode, secret=True)

    def _keystores(self, svid: X509Svid, authorities: Sequence[bytes], now: datetime) -> Iterator[File]:
        made: tuple[tuple[str, bool, Callable[[], bytes]], ...] = (
            (self.pkcs12, True, lambda: pkcs12_keystore(svid.key, svid.chain, self.password)),
            (self.pkcs12_trust, False, lambda: pkcs12_truststore(authorities, self.password)),
            (self.jks, True, lambda: jks_keystore(svid.key, svid.chain, self.password, now)),
            (self.jks_trust, False, lambda: jks_truststore(authorities, self.password, now)),
        )
        for name, secret, make in made:
            if name:
                mode = self.key_mode if secret else self.certificate_mode
                yield File(name=name, data=make(), mode=mode, secret=secret)

    def _authorities(self, context: X509Context, svid: X509Svid, now: datetime) -> tuple[bytes, ...]:
        own = context.bundle_of(svid)
        others = [each for each in context.bundles if each.trust_domain != own.trust_domain]
        found = list(own.x509_authorities)
        if self.chain_in_bundle:
            found += svid.chain[1:]
        if self.federated:
            found += [der for each in others for der in each.x509_authorities]
        ends = {der: load_certificate(der).not_valid_after_utc for der in found} if self.omit_expired else {}
        return tuple(der for der in dict.fromkeys(found) if der not in ends or ends[der] > now)


def _with_hint(hint: str, svids: Sequence[_Svid]) -> _Svid:
    if not hint:
        return svids[0]
    found = next((svid for svid in svids if svid.hint == hint), None)
    if found is None:
        raise HINT_UNKNOWN.error(f"no identity has the hint {hint!r}")
    return found


def _pem(certificates: Sequence[bytes]) -> bytes:
    return b"".join(pem_block(CERTIFICATE, der) for der in certificates)


def _as_helper_writes(bundles: Sequence[TrustBundle]) -> bytes:
    """As spiffe-helper does: an object of base64 of JWK Sets, by trust domain."""
    sets = {str(each.trust_domain): base64.b64encode(to_jwt_jwks(each)).decode() for each in bundles}
    return json.dumps(sets, separators=(",", ":"), sort_keys=True).encode()
