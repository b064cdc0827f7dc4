"""The way of a database file to the current schema."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine

from vestibule.errors import VestibuleError
from vestibule.store.sql.preparation import SCRIPTS, _engine, migrate, prepare, read_revision
from vestibule.store.sql.schema import REVISIONS, metadata
from vestibule.store.sqlite import open_store
from vestibule.testing import FakeClock, TestAuthority

NOW = datetime(2026, 5, 1, tzinfo=UTC)

NEXT = "9000"
FIRST = f"""
revision, down_revision = "{REVISIONS[-1]}", None
"""
SECOND = f"""
from alembic import op
import sqlalchemy as sa
revision, down_revision = "{NEXT}", "{REVISIONS[-1]}"
def upgrade():
    op.create_table("more", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO more VALUES (7)")
"""
BROKEN = (
    SECOND
    + """
    op.execute("INSERT INTO nowhere VALUES (1)")
"""
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vestibule.db"


@pytest.fixture
def migrated(path: Path) -> Iterator[Connection]:
    with _engine(path) as engine, engine.begin() as connection:
        migrate(connection, SCRIPTS, REVISIONS[-1])
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def scripts(directory: Path, second: str) -> Path:
    (directory / "scripts" / "versions").mkdir(parents=True)
    (directory / "scripts" / "versions" / "r1.py").write_text(FIRST)
    (directory / "scripts" / "versions" / "r2.py").write_text(second)
    return directory / "scripts"


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {(name, " ".join(sql.split())) for name, sql in rows}


def test_the_migrations_lead_to_the_current_tables(migrated: Connection) -> None:
    assert compare_metadata(MigrationContext.configure(migrated), metadata) == []


def test_a_new_database_equals_a_migrated_one(migrated: Connection, path: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "new.db")
    ours, theirs = schema(tmp_path / "new.db"), schema(path)
    assert {name for name, _ in ours} == {name for name, _ in theirs}
    assert dict(ours)["entries"] == dict(theirs)["entries"]


def test_an_older_database_is_backed_up_and_migrated(path: Path, tmp_path: Path) -> None:
    prepare(path)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO bundles VALUES ('example.org', '[]', '3', 0, '[]', '[]', '[]')")
    connection.close()
    prepare(path, scripts(tmp_path, SECOND), (*REVISIONS, NEXT))
    assert read_revision(path) == NEXT
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM more").fetchall() == [(7,)]
        assert connection.execute("SELECT sequence FROM bundles").fetchall() == [("3",)]
    backup = path.with_name(f"vestibule.db.{REVISIONS[-1]}.bak")
    assert read_revision(backup) == REVISIONS[-1]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT sequence FROM bundles").fetchall() == [("3",)]


def test_a_migration_that_fails_changes_nothing(path: Path, tmp_path: Path) -> None:
    prepare(path)
    before = schema(path)
    with pytest.raises(VestibuleError, match="VST8000"):
        prepare(path, scripts(tmp_path, BROKEN), (*REVISIONS, NEXT))
    assert schema(path) == before
    assert read_revision(path) == REVISIONS[-1]


async def test_a_server_of_the_first_version_keeps_what_it_knew(path: Path) -> None:
    authority = TestAuthority("example.org", now=NOW)
    with _engine(path) as engine, engine.begin() as connection:
        migrate(connection, SCRIPTS, "0001")
    encoded = f'["{b64encode(authority.certificate).decode()}"]'
    with sqlite3.connect(path) as connection_:
        connection_.execute("INSERT INTO bundles VALUES ('example.org', ?, '3', 60)", [encoded])
        connection_.execute(
            "INSERT INTO authorities VALUES ('a', 'x509-ca-a', ?, 'active', 0, 1000000)", [encoded]
        )
    connection_.close()
    store = await open_store(path, FakeClock(NOW))
    try:
        assert read_revision(path) == REVISIONS[-1]
        bundle = await store.bundles.get(authority.trust_domain)
        assert bundle is not None
        assert (bundle.x509_authorities, bundle.jwt_authorities) == ((authority.certificate,), ())
        assert (bundle.sequence, bundle.refresh_hint) == (3, 60)
        assert [each.id for each in await store.authorities.all()] == ["a"]
        assert await store.jwt_keys.all() == []
    finally:
        await store.close()


def test_a_newer_database_is_refused_and_not_touched(path: Path) -> None:
    prepare(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(VestibuleError, match="VST8004") as caught:
        prepare(path)
    assert "9999" in caught.value.message
    assert path.read_bytes() == before


def test_all_who_start_at_once_find_one_database(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: prepare(path), range(16)))
    assert read_revision(path) == REVISIONS[-1]


def test_alembic_is_imported_only_to_migrate(path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from vestibule.store.sql.preparation import prepare
import vestibule.store.sqlite
prepare(Path({str(path)!r}))
prepare(Path({str(path)!r}))
sys.exit("alembic" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
