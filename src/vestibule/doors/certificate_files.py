"""The certificates of pages that web clients read: from files, which somebody else renews."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from vestibule.doors.codes import UNUSABLE_CERTIFICATE
from vestibule.errors import VestibuleError

LOOK_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class CertificateFiles:
    """A TLS context from two files, which are read again when they change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises: VST2202 when they cannot be used."""
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._state()
        self._load()

    async def run(self) -> None:
        """Look at the files from time to time; those that cannot be used are reported, and the old ones stay."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the files if they have changed; handshakes from now on use them."""
        try:
            if (seen := self._state()) != self._seen:
                self._seen = seen
                self._load()
                _log.info("%s was read again", self._files[0])
        except VestibuleError as error:
            _log.error("%s; the one before stays in use", error)

    def _state(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((each.stat().st_mtime_ns, each.stat().st_ino) for each in self._files)
        except OSError as error:
            raise UNUSABLE_CERTIFICATE.error(f"{error.filename} cannot be read: {error.strerror}") from error

    def _load(self) -> None:
        certificate, key = self._files
        try:
            # On a context of its own first: a pair that does not fit must not spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
            self.context.load_cert_chain(certificate, key, _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise UNUSABLE_CERTIFICATE.error(f"{certificate} and {key} cannot be used: {error}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
