"""The last good keys of outside issuers, as files of the server: public, but nobody else's to change."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from vestibule.intent.published_keys import published
from vestibule.keys.files import read_private, write_private, written
from vestibule.mesh.issuer_keys import KeptKeys

_MOST: Final = 512 * 1024
_log = logging.getLogger(__name__)


class KeyFiles:
    """An ``issuer_keys.Keeping``: one file per URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> Iterator[KeptKeys]:
        """What can be read, and is a key set still; the rest is fetched anew."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                found = _parsed(read_private(path, _MOST))
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s holds no keys of an issuer: %s", path, error)
                continue
            if found is not None and self._path(found.url) == path:
                yield found

    async def keep(self, kept: KeptKeys) -> None:
        """Raises: OSError."""
        document = {"url": kept.url, "seen_at": kept.seen_at.isoformat(), "keys": kept.keys}
        await written(partial(self._write, self._path(kept.url), json.dumps(document).encode()))

    def forget(self, kept: KeptKeys) -> None:
        """It need not be there."""
        with suppress(OSError):
            self._path(kept.url).unlink()

    def _write(self, path: Path, data: bytes) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        write_private(path, data)

    def _path(self, url: str) -> Path:
        return self._directory / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def _parsed(data: bytes) -> KeptKeys | None:
    """Raises: ValueError, KeyError, TypeError."""
    said = json.loads(data)
    found = published(str(said["keys"]).encode())
    seen_at = datetime.fromisoformat(said["seen_at"])
    if not found.keys or seen_at.tzinfo is None:
        return None
    # Without its mark: what was of no use to the version that fetched it may be of use to this one.
    return KeptKeys(url=str(said["url"]), keys=found.keys, ids=found.ids, etag="", seen_at=seen_at)
