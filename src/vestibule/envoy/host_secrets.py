"""Secrets that a sidecar makes of files of its own host: the names by which Envoy asks it for them.

The compiler knows what a proxy needs and nothing of its host; the sidecar has the files and nothing of the intent.  A
name says all there is to know, and no more than a path: what is in the file passes from the sidecar to its Envoy over a
private socket, and through nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import parse_qs, urlencode

_TRUST: Final = "webpki"
_CREDENTIAL: Final = "credential"
_CERTIFICATE: Final = "certificate"
_TOKEN: Final = "token"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class PublicTrust:
    """The authorities that the host itself believes, wherever its distribution keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFile:
    """The value of a header: ``prefix``, and the one line of a file after it."""

    file: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """A certificate with its chain, and its key, in PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedToken:
    """The value of an Authorization header: a token of the mesh's own token service, for the service beside the Envoy.

    It is no file; the sidecar gets it, and gets the next before it ends.
    """

    audience: str
    scopes: tuple[str, ...] = ()


FileSecret: TypeAlias = PublicTrust | CredentialFile | CertificateFiles
HostSecret: TypeAlias = FileSecret | FetchedToken


def name_of(secret: HostSecret) -> str:
    """How Envoy asks for it."""
    match secret:
        case PublicTrust():
            return _TRUST
        case CredentialFile(file=file, prefix=prefix):
            return f"{_CREDENTIAL}?{urlencode({'file': file, 'prefix': prefix})}"
        case CertificateFiles(certificate=certificate, key=key):
            return f"{_CERTIFICATE}?{urlencode({'certificate': certificate, 'key': key})}"
        case FetchedToken(audience=audience, scopes=scopes):
            return f"{_TOKEN}?{urlencode({'audience': audience, 'scope': ' '.join(scopes)})}"


def parse(name: str) -> HostSecret | None:
    """What a name asks for; None if it is no name of ours."""
    kind, _, query = name.partition("?")
    values = {key: found[0] for key, found in parse_qs(query, keep_blank_values=True).items()}
    match kind, values:
        case ("webpki", {}) if not query:
            return PublicTrust()
        case ("credential", {"file": file, "prefix": prefix}):
            return CredentialFile(file=file, prefix=prefix)
        case ("certificate", {"certificate": certificate, "key": key}):
            return CertificateFiles(certificate=certificate, key=key)
        case ("token", {"audience": audience, "scope": scope}):
            return FetchedToken(audience=audience, scopes=tuple(scope.split()))
    return None
