"""The certificate that clients without an SVID are shown: from files, which somebody else renews."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from vestibule.doors.certificate_files import LOOK_SECONDS, CertificateFiles
from vestibule.doors.codes import UNUSABLE_CERTIFICATE
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon

_log = logging.getLogger(__name__)


class WebCertificate:
    """What is in the two files, as long as it can be used; ``changed`` tells when it has become something else."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises: VST2202 when they cannot be used."""
        self._files = (certificate, key)
        self._beacon = Beacon()
        self.content = self._usable(self._read())

    def __repr__(self) -> str:
        return f"WebCertificate({str(self._files[0])!r})"  # never the key

    @property
    def revision(self) -> int:
        """Grows with each change."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs."""
        return await self._beacon.changed(since)

    async def run(self) -> None:
        """Look at the files from time to time; what cannot be used is reported, and the old ones stay."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the files; what is new in them is told."""
        try:
            if (found := self._read()) != self.content:
                self.content = self._usable(found)
                self._beacon.advance()
        except VestibuleError as error:
            _log.error("%s; the one before stays in use", error)

    def _read(self) -> tuple[bytes, bytes]:
        try:
            return self._files[0].read_bytes(), self._files[1].read_bytes()
        except OSError as error:
            raise UNUSABLE_CERTIFICATE.error(f"{error.filename} cannot be read: {error.strerror}") from error

    def _usable(self, found: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        CertificateFiles(*self._files)
        if self._read() != found:
            raise UNUSABLE_CERTIFICATE.error(f"{self._files[0]} and {self._files[1]} are being written")
        return found
