"""Bringing a PostgreSQL database to the current schema, before anybody uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psycopg
from sqlalchemy import Connection, NullPool, create_engine

from vestibule.store.codes import STORE_DAMAGED, STORE_NEWER
from vestibule.store.sql.postgres_address import PostgresAddress
from vestibule.store.sql.postgres_engine import MIGRATION_LOCK
from vestibule.store.sql.postgres_failures import translated
from vestibule.store.sql.preparation import SCRIPTS, create, migrate
from vestibule.store.sql.schema import REVISIONS, version

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
_COLLATED = """
SELECT format('ALTER TABLE %%I.%%I ALTER COLUMN %%I TYPE text COLLATE "C"', table_schema, table_name, column_name)
FROM information_schema.columns
WHERE table_schema = current_schema() AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'
"""


def prepare(address: PostgresAddress, scripts: Path = SCRIPTS, revisions: Sequence[str] = REVISIONS) -> None:
    """Make the tables, or migrate them, or find them current; several servers may do so at once.

    All of it is one transaction, under an advisory lock: who comes second waits, and finds it done.
    Raises: VST8003 (not ours), VST8004 (of a newer version), VST8006, VST8007 and the other errors of storage.
    """
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**address.parameters),
        poolclass=NullPool,
        hide_parameters=True,
    )
    try:
        with translated(), engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            _bring_up(connection, scripts, revisions)
    finally:
        engine.dispose()


def _bring_up(connection: Connection, scripts: Path, revisions: Sequence[str]) -> None:
    current = read_revision(connection)
    if current == revisions[-1]:
        return
    if current and current not in revisions:
        raise STORE_NEWER.error(
            f"the database has the schema {current}; this version knows {revisions[-1]} at most"
        )
    if current:
        migrate(connection, scripts, revisions[-1])
    else:
        create(connection, revisions[-1])
    # Keys are listed and compared bytewise, as SQLite and Python do, whatever the database's language.
    for statement in connection.exec_driver_sql(_COLLATED).scalars().all():
        connection.exec_driver_sql(statement)


def read_revision(connection: Connection) -> str:
    """The schema's version, empty for an empty database.  Raises: VST8003 when the tables are not ours."""
    tables = set(connection.exec_driver_sql(_TABLES).scalars())
    if not tables:
        return ""
    rows = connection.execute(version.select()).all() if version.name in tables else []
    if len(rows) != 1:
        raise STORE_DAMAGED.error(
            "the database holds tables that are not Vestibule's: give it one of its own"
        )
    return str(rows[0][0])
