"""Files of this host that secrets of an Envoy are made of: public authorities, credentials, a gateway's certificate.

They are read by the sidecar with the rights of its own user, checked before Envoy sees them, and read again when they
change.  A change that is worse than what was there (half written, mismatched, gone) is reported and not taken up: what
was good last goes on being used for as long as the sidecar runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vestibule.envoy.host_secrets import CertificateFiles, CredentialFile, FileSecret, PublicTrust
from vestibule.errors import VestibuleError
from vestibule.processes.users import User
from vestibule.proxy.codes import BAD_CERTIFICATE, BAD_CREDENTIAL, HOST_FILE_UNREADABLE, NO_PUBLIC_TRUST

CA_BUNDLES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Arch, Gentoo
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # openSUSE, SLES
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # RHEL, CentOS
    Path("/etc/ssl/cert.pem"),  # Alpine
)
"""Where distributions keep the authorities that their users trust, as Go and OpenSSL look for them."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the files."""

LONGEST_CREDENTIAL: Final = 8 * 1024
LONGEST_CERTIFICATE: Final = 256 * 1024
LONGEST_BUNDLE: Final = 8 * 1024 * 1024

_Facts = tuple[tuple[int, int, int, int] | None, ...]
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """What is known of one secret."""

    facts: _Facts
    content: tuple[bytes, ...] | None = field(default=None, repr=False)
    problem: VestibuleError | None = None


class HostFiles:
    """Reads what is asked for, and looks again every ``LOOK_EVERY`` seconds while ``run`` runs.

    ``ca_bundle`` is a file with the authorities to trust instead of the distribution's.  ``reader`` is whom Envoy runs
    as where that is another than we are: the intent must not have us read for it what it could not read itself.
    ``now`` tells whether a certificate is still valid, which is worth a warning.
    """

    def __init__(
        self,
        *,
        ca_bundle: Path | None = None,
        reader: User | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ca_bundle = ca_bundle
        self._reader = reader
        self._now = now
        self._kept: dict[FileSecret, _Kept] = {}
        self._changed = asyncio.Event()

    def content(self, secret: FileSecret) -> tuple[bytes, ...] | None:
        """The parts of a secret as they were good last; None while they never were, which is logged."""
        if secret not in self._kept:
            self._kept[secret] = _Kept(facts=self._facts(secret))
            self._read(secret, self._kept[secret])
        return self._kept[secret].content

    def check(self, secret: FileSecret) -> None:
        """Raises: VST7220, VST7221, VST7222, VST7223 if the secret cannot be had now."""
        self._fresh(secret)

    @property
    def problems(self) -> tuple[VestibuleError, ...]:
        """What is wrong with the files as they are now."""
        return tuple(kept.problem for kept in self._kept.values() if kept.problem is not None)

    async def changed(self) -> None:
        """Return at the next change of any content."""
        await self._changed.wait()

    async def run(self) -> None:
        """Follow the files."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Read again what differs from when it was read."""
        changed = False
        for secret, kept in self._kept.items():
            if (facts := self._facts(secret)) != kept.facts:
                kept.facts, before = facts, kept.content
                self._read(secret, kept)
                changed |= kept.content != before
        if changed:
            self.tell()

    def tell(self) -> None:
        """Some content is another, perhaps one that is no file."""
        told, self._changed = self._changed, asyncio.Event()
        told.set()

    def _read(self, secret: FileSecret, kept: _Kept) -> None:
        try:
            kept.content = self._fresh(secret)
        except VestibuleError as error:
            going_on = "; what was there before is still used" if kept.content is not None else ""
            if str(error) != str(kept.problem):
                _log.error("%s%s (%s)", error, going_on, error.advice)
            kept.problem = error
        else:
            if kept.problem is not None:
                _log.info("%s can be used again", _shown(secret))
            kept.problem = None

    def _fresh(self, secret: FileSecret) -> tuple[bytes, ...]:
        match secret:
            case PublicTrust():
                return (_bundle(self._bundle_path()),)
            case CredentialFile(file=file, prefix=prefix):
                return (prefix.encode("latin-1", "replace") + _credential(Path(file), self._reader),)
            case CertificateFiles(certificate=certificate, key=key):
                return _pair(Path(certificate), Path(key), self._now(), self._reader)

    def _facts(self, secret: FileSecret) -> _Facts:
        match secret:
            case PublicTrust():
                return tuple(map(_facts_of, (self._ca_bundle,) if self._ca_bundle else CA_BUNDLES))
            case CredentialFile(file=file):
                return (_facts_of(Path(file)),)
            case CertificateFiles(certificate=certificate, key=key):
                return (_facts_of(Path(certificate)), _facts_of(Path(key)))

    def _bundle_path(self) -> Path:
        if self._ca_bundle is not None:
            return self._ca_bundle
        found = next((each for each in CA_BUNDLES if each.is_file()), None)
        if found is None:
            raise NO_PUBLIC_TRUST.error(
                f"no public authorities are installed here (looked at: {', '.join(map(str, CA_BUNDLES))})"
            )
        return found


def _bundle(path: Path) -> bytes:
    content = _bytes_of(path, LONGEST_BUNDLE)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise NO_PUBLIC_TRUST.error(f"{path} holds no certificate")
    return content


def _credential(path: Path, reader: User | None) -> bytes:
    """The one line of a file, as the value of a header.  What is wrong is said without a word of what it holds."""
    line = _bytes_of(path, LONGEST_CREDENTIAL, reader).removesuffix(b"\n").removesuffix(b"\r")
    if not line.strip():
        raise BAD_CREDENTIAL.error(f"{path} is empty")
    if b"\n" in line or b"\r" in line:
        raise BAD_CREDENTIAL.error(f"{path} has several lines")
    if not all(0x20 <= byte < 0x7F for byte in line):
        raise BAD_CREDENTIAL.error(f"{path} has characters that no header can carry")
    return line


def _pair(certificate: Path, key: Path, now: datetime, reader: User | None) -> tuple[bytes, bytes]:
    # Late, since only gateways need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    chain_pem = _bytes_of(certificate, LONGEST_CERTIFICATE, reader)
    key_pem = _bytes_of(key, LONGEST_CERTIFICATE, reader)
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise BAD_CERTIFICATE.error(f"{certificate} holds no certificate in PEM") from error
    try:
        private = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise BAD_CERTIFICATE.error(
            f"the key in {key} is encrypted, and there is nobody to ask for its passphrase"
        ) from None
    except ValueError:
        # Without what the library says of it: that might quote the key.
        raise BAD_CERTIFICATE.error(f"{key} holds no private key in PEM") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BAD_CERTIFICATE.error(f"the key in {key} is of a type that Envoy does not serve")
    if private.public_key() != chain[0].public_key():
        raise BAD_CERTIFICATE.error(f"the key in {key} is not the one of the certificate in {certificate}")
    if chain[0].not_valid_after_utc <= now:
        _log.error("the certificate in %s has expired; clients will refuse it", certificate)
    return chain_pem, key_pem


def _bytes_of(path: Path, most: int, reader: User | None = None) -> bytes:
    """A regular file of at most so many bytes, which ``reader`` may read; what is none is not waited for."""
    if not path.is_absolute():
        raise HOST_FILE_UNREADABLE.error(f"{path} is not an absolute path")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HOST_FILE_UNREADABLE.error(f"{path} is no regular file")
            # Asked of what was opened: a name may lead elsewhere a moment later.
            if reader is not None and not _may_read(reader, Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise HOST_FILE_UNREADABLE.error(f"{path} is not readable by the user {reader.name}")
            content = file.read(most + 1)
    except OSError as error:
        raise HOST_FILE_UNREADABLE.error(f"cannot read {path}: {error.strerror}") from error
    if len(content) > most:
        raise HOST_FILE_UNREADABLE.error(f"{path} is larger than {most} bytes")
    return content


def _may_read(user: User, path: Path) -> bool:
    """By the modes of the file and of every directory above it, on a path without links."""
    if user.uid == 0:
        return True
    return _has(user, path.stat(), 0o4) and all(_has(user, above.stat(), 0o1) for above in path.parents)


def _has(user: User, found: os.stat_result, bit: int) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & bit << 6)
    if found.st_gid in (user.gid, *user.groups):
        return bool(found.st_mode & bit << 3)
    return bool(found.st_mode & bit)


def _facts_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def _shown(secret: FileSecret) -> str:
    match secret:
        case PublicTrust():
            return "the bundle of public authorities"
        case CredentialFile(file=file):
            return file
        case CertificateFiles(certificate=certificate):
            return certificate
