"""Keys in a directory, each sealed in a file of its own."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.x509 import (
    CertificateBuilder,
    CertificateRevocationListBuilder,
    CertificateSigningRequestBuilder,
)

from vestibule.keys.codes import KEY_NOT_KEPT, UNSEALABLE
from vestibule.keys.files import TEMPORARY, make_private_directory, sync_directory, write_private, written
from vestibule.keys.memory import check_key_id, no_such_key, sign, sign_data
from vestibule.keys.sealing import Sealer
from vestibule.pki.keys import generate_key, key_from_pkcs8, key_to_pkcs8

SUFFIX: Final = ".key"
_CONTEXT: Final = b"vestibule.keys/disk/v1:"


class DiskKeyManager:
    """A ``KeyManager`` whose keys survive a restart.

    A file is ``ID.key``, mode 0600, holding PKCS #8 sealed for that ID: a file that was renamed does not open.
    Keys are read once and then stay in memory, so that a signature costs no disk access.
    """

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._directory = directory
        self._sealer = sealer
        self._keys: dict[str, EllipticCurvePrivateKey] = {}
        self._writing = asyncio.Lock()

    async def generate(self, key_id: str) -> EllipticCurvePublicKey:
        """Make a key; one that had this ID is replaced.  It is on disk when this returns."""
        path, key = self._path(key_id), generate_key()
        sealed = self._sealer.seal(key_to_pkcs8(key), context=_CONTEXT + key_id.encode())
        async with self._writing:
            self._keys.pop(key_id, None)  # whatever becomes of the write, the file has the last word
            try:
                await written(partial(self._write, path, sealed))
            except OSError as error:
                raise KEY_NOT_KEPT.error(f"{path} can not be written: {error.strerror}") from error
            self._keys[key_id] = key
        return key.public_key()

    async def public_key(self, key_id: str) -> EllipticCurvePublicKey:
        """The public half."""
        return (await self._key(key_id)).public_key()

    async def sign_certificate(self, key_id: str, builder: CertificateBuilder) -> bytes:
        """Sign what a profile built."""
        return sign(await self._key(key_id), builder)

    async def sign_crl(self, key_id: str, builder: CertificateRevocationListBuilder) -> bytes:
        """Sign what ``pki.crls`` built."""
        return sign(await self._key(key_id), builder)

    async def sign_csr(self, key_id: str, builder: CertificateSigningRequestBuilder) -> bytes:
        """Sign what ``pki.csr`` built."""
        return sign(await self._key(key_id), builder)

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """Sign ``data``."""
        return sign_data(await self._key(key_id), data)

    async def delete(self, key_id: str) -> None:
        """Forget a key and remove its file."""
        path = self._path(key_id)
        async with self._writing:
            self._keys.pop(key_id, None)
            try:
                await written(partial(self._remove, path))
            except OSError as error:
                raise KEY_NOT_KEPT.error(f"{path} can not be removed: {error.strerror}") from error

    async def key_ids(self) -> frozenset[str]:
        """The IDs of all keys, whether they can be opened or not."""
        return await asyncio.to_thread(self._list)

    async def _key(self, key_id: str) -> EllipticCurvePrivateKey:
        if (known := self._keys.get(key_id)) is not None:
            return known
        path = self._path(key_id)
        async with self._writing:  # no key is read while it is being replaced
            key = await asyncio.to_thread(self._read, path, key_id)
            return self._keys.setdefault(key_id, key)

    def _read(self, path: Path, key_id: str) -> EllipticCurvePrivateKey:
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            raise no_such_key(key_id) from None
        except OSError as error:
            raise UNSEALABLE.error(f"{path} can not be read: {error.strerror}") from error
        return key_from_pkcs8(self._sealer.unseal(sealed, context=_CONTEXT + key_id.encode()))

    def _write(self, path: Path, sealed: bytes) -> None:
        make_private_directory(self._directory)
        for leftover in self._directory.glob(f"{TEMPORARY}*"):  # of a crash; we are the only writer
            leftover.unlink(missing_ok=True)
        write_private(path, sealed)

    def _remove(self, path: Path) -> None:
        if path.exists():
            path.unlink()
            sync_directory(self._directory)

    def _list(self) -> frozenset[str]:
        return frozenset(path.stem for path in self._directory.glob(f"[!.]*{SUFFIX}"))

    def _path(self, key_id: str) -> Path:
        return self._directory / f"{check_key_id(key_id)}{SUFFIX}"
