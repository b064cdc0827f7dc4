"""Where a server keeps its state, and which server it is among several on one database."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from vestibule.app.codes import DATABASE_LOST
from vestibule.app.server_settings import ServerSettings
from vestibule.clock import Clock
from vestibule.identity.lifecycle import ALONE, Ownership
from vestibule.keys.codes import KEY_NOT_KEPT
from vestibule.keys.files import read_private, write_private
from vestibule.store import Store

_ID_FILE: Final = "server-id"
_ID_BYTES: Final = 64

_log = logging.getLogger(__name__)


async def opened_store(settings: ServerSettings, clock: Clock) -> Store:
    """SQLite in the data directory, or the PostgreSQL of the settings.  Raises: errors of the store, VST9110."""
    if settings.database is None:
        from vestibule.store.sqlite import open_store

        path = settings.data_dir / "server.db"
        _check_not_lost(path, settings.data_dir / "audit.jsonl")
        return await open_store(path, clock)
    from vestibule.store.postgres import open_postgres
    from vestibule.store.sql.postgres_address import PostgresAddress

    address = PostgresAddress.parse(settings.database.read().reveal())
    if not address.proves_itself:
        _log.warning("the database's server need not prove its name: sslmode is not verify-full")
    _log.info("the database is %s", address)
    return await open_postgres(address, clock)


def _check_not_lost(database: Path, audit: Path) -> None:
    """A new database beside an old log would quietly begin another trust domain, and remove the old one's keys."""
    if database.exists() or not audit.exists() or audit.stat().st_size == 0:
        return
    raise DATABASE_LOST.error(f"there is no {database}, but {audit} of the server that had one")


def ownership(settings: ServerSettings, store: Store) -> Ownership:
    """Whose authorities are this server's.  Raises: VST1103."""
    if settings.database is None:
        return ALONE
    return Ownership(owner=_server_id(settings.data_dir / _ID_FILE), leads=lambda: store.leads)


def _server_id(path: Path) -> str:
    """Goes with the data directory, as the keys do."""
    try:
        with suppress(FileExistsError):
            write_private(path, f"{secrets.token_hex(8)}\n".encode(), replace=False)
        return read_private(path, _ID_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise KEY_NOT_KEPT.error(f"{path} is refused: {error.strerror or error}") from error
