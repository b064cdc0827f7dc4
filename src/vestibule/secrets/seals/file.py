"""The seal of development, and of machines with a TPM behind systemd: a key in a file, opened without anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from vestibule.errors import VestibuleError
from vestibule.keys.kek import load_or_create_kek
from vestibule.secrets.seals.codes import NO_SHARES, SEAL_UNAVAILABLE
from vestibule.secrets.seals.ports import Document, Plan, Wrapped
from vestibule.secrets.seals.wrapping import unwrapped, wrapped


class FileSeal:
    """``secrets.seals.ports.Seal``: the root key under a KEK in a file (``keys.kek``), or a credential of systemd.

    Whoever can read both the file and the database can read everything, so they belong on different disks, or the
    file into ``systemd-creds``.
    """

    kind = "file"
    automatic = True
    has_shares = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def wrap(self, root_key: bytes, plan: Plan) -> Wrapped:
        """Wrap a root key; the file is made if it is not there."""
        key = await self._key()
        return Wrapped(document=wrapped({"kind": self.kind, "version": 1}, root_key, key))

    async def unwrap(self, document: Document, shares: Sequence[bytes] = ()) -> bytes:
        """The root key."""
        if not self._path.exists():  # a new key would open nothing
            raise SEAL_UNAVAILABLE.error(f"{self._path} is not there")
        return unwrapped(document, await self._key())

    def plan(self, document: Document) -> Plan | None:
        """There are no shares."""
        return None

    def number(self, document: Document, share: bytes) -> int:
        """Raises: VST5019."""
        raise NO_SHARES.error("the seal is a key file: it has no shares")

    async def _key(self) -> bytes:
        try:
            return await asyncio.to_thread(load_or_create_kek, self._path)
        except VestibuleError as error:
            raise SEAL_UNAVAILABLE.error(error.message, advice=error.advice) from error
