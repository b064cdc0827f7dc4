"""The configuration that each proxy took last, sealed on disk, for the time in which the server is away."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Protocol

from vestibule.errors import VestibuleError
from vestibule.xds.codes import SNAPSHOT_UNREADABLE
from vestibule.xds.resources import ProxyKey, Resource, Snapshot

FORMAT: Final = "vestibule.relay/v1"
SUFFIX: Final = ".sealed"
NEW: Final = ".new-"
"""How the names of files begin that are not yet whole."""
KEPT_SECONDS: Final = 30 * 24 * 3600.0
"""Files of proxies that have not changed for so long are removed; their instances are gone."""

_log = logging.getLogger(__name__)


class Seals(Protocol):
    """Encrypts and authenticates data at rest (``keys.Sealer``)."""

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes: ...


class KeptSnapshots:
    """One file per proxy, mode 0600 in a 0700 directory, replaced atomically; bound to its proxy by the seal."""

    def __init__(self, directory: Path, seals: Seals) -> None:
        self._directory = directory
        self._seals = seals

    def load(self, proxy: ProxyKey) -> Snapshot | None:
        """What the proxy took last; None where nothing is kept.  Raises: VST3109, after setting it aside."""
        path = self._path(proxy)
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _parse(self._seals.unseal(sealed, context=_context(proxy)))
        except (VestibuleError, ValueError, KeyError, TypeError, binascii.Error) as error:
            path.replace(path.with_suffix(".unreadable"))
            raise SNAPSHOT_UNREADABLE.error(f"{path.name} cannot be read") from error

    def save(self, proxy: ProxyKey, snapshot: Snapshot) -> None:
        """Keep this one from now on; it is on disk when this returns.  Raises: OSError."""
        sealed = self._seals.seal(_write(snapshot), context=_context(proxy))
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._directory, prefix=NEW)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path(proxy))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def forget(self, proxy: ProxyKey) -> None:
        """The proxy is gone for good."""
        self._path(proxy).unlink(missing_ok=True)

    def prune(self, now: float | None = None) -> None:
        """Remove what has not changed for a long time, and what an interrupted write left behind."""
        oldest = (time.time() if now is None else now) - KEPT_SECONDS
        for path in self._directory.glob("*") if self._directory.is_dir() else ():
            try:
                if path.name.startswith(NEW) or path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("cannot remove %s: %s", path, error)

    def _path(self, proxy: ProxyKey) -> Path:
        return self._directory / (hashlib.sha256(_context(proxy)).hexdigest()[:32] + SUFFIX)


def _context(proxy: ProxyKey) -> bytes:
    return f"{FORMAT}\0{proxy.spiffe_id}\0{proxy.instance_id}".encode()


def _write(snapshot: Snapshot) -> bytes:
    known = snapshot.resources.keys() if snapshot.known is None else snapshot.known
    document = {
        "format": FORMAT,
        "version": snapshot.version,
        "types": {
            url: [
                [name, resource.version, base64.b64encode(resource.body).decode("ascii")]
                for name, resource in sorted(snapshot.of_type(url).items())
            ]
            for url in sorted(known)
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _parse(data: bytes) -> Snapshot:
    document: dict[str, Any] = json.loads(data)
    if document["format"] != FORMAT:
        raise ValueError("another format")
    resources = {
        url: {
            name: Resource(url, name, base64.b64decode(body, validate=True), version)
            for name, version, body in entries
        }
        for url, entries in document["types"].items()
    }
    return Snapshot(str(document["version"]), resources, known=frozenset(resources))
