"""The roots that a server's operator trusts, in a PEM file: the one anchor that no delivery can change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from vestibule.errors import VestibuleError
from vestibule.identity.ca.codes import UPSTREAM_FILES
from vestibule.identity.ca.files import read_public
from vestibule.identity.ca.watched_files import versions
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import is_signer
from vestibule.pki.names import NamesError, read_names
from vestibule.pki.pem import CERTIFICATE, pem_blocks
from vestibule.spiffe import TrustDomain


class RootsFile:
    """PEM certificates of signers, of this trust domain or of none."""

    def __init__(self, path: Path, trust_domain: TrustDomain) -> None:
        self.path = path
        self._trust_domain = trust_domain

    def read(self) -> tuple[bytes, ...]:
        """The roots, DER, each once.  Raises: VST1386."""
        try:
            roots = tuple(dict.fromkeys(pem_blocks(read_public(self.path), CERTIFICATE)))
            for der in roots:
                self._check(der)
        except VestibuleError as error:
            raise UPSTREAM_FILES.error(f"the roots in {self.path} are refused: {error.message}") from error
        return roots

    async def versions(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The roots now, and after every change of the file.  Raises: VST1386."""
        async for roots in versions([self.path], self.read):
            yield roots

    def _check(self, der: bytes) -> None:
        certificate = load_certificate(der)
        if not is_signer(certificate):
            raise UPSTREAM_FILES.error("one of them is not a signing certificate")
        try:
            spiffe_id, _ = read_names(certificate.extensions)
        except NamesError as error:
            raise UPSTREAM_FILES.error(str(error)) from error
        if spiffe_id not in (None, self._trust_domain.id):
            raise UPSTREAM_FILES.error(f"one of them is that of {spiffe_id}")
