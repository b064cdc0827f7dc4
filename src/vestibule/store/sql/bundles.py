"""Trust bundles in SQL: ours, and those of trust domains that we federate with."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vestibule.records import BundleDeletion
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store.changes import Changes
from vestibule.store.codes import BUNDLE_IN_USE, ENTRIES_CHANGED
from vestibule.store.ports import Page
from vestibule.store.sql.database import Database
from vestibule.store.sql.entries import dissociate, federating, remove
from vestibule.store.sql.paging import decode_token, matching, page
from vestibule.store.sql.schema import bundles as table
from vestibule.store.sql.upserts import upsert


class SqlBundles:
    """``store.ports.Bundles``."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def get(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The latest bundle of a trust domain."""
        async with self._database.read() as connection:
            return await _one(connection, trust_domain)

    async def put(self, bundle: TrustBundle) -> None:
        """Keep a trust domain's bundle in place of the one before."""
        async with self._database.write() as connection:
            await write_bundle(connection, bundle)
        self._changes.publish("bundle")

    async def revise(
        self, trust_domain: TrustDomain, change: Callable[[TrustBundle | None], TrustBundle | None]
    ) -> TrustBundle | None:
        """Keep what ``change`` makes of a bundle."""
        async with self._database.write() as connection:
            kept = await _one(connection, trust_domain)
            revised = change(kept)
            if revised is not None:
                await write_bundle(connection, revised)
        if revised is not None:
            self._changes.publish("bundle")
        return revised

    async def page(self, size: int, token: str = "") -> Page[TrustBundle]:
        """Up to ``size`` bundles by trust domain."""
        after = decode_token(token)
        async with self._database.read() as connection:
            found = matching(connection, select(table), table.c.trust_domain, _bundle, after)
            return await page(found, lambda _: True, size)

    async def count(self) -> int:
        """How many bundles there are."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.count()).select_from(table))).scalar_one()

    async def delete(
        self, trust_domain: TrustDomain, mode: BundleDeletion, known: AbstractSet[str] = frozenset()
    ) -> bool:
        """Forget a bundle, and do with its entries what ``mode`` says."""
        async with self._database.write() as connection:
            if await _one(connection, trust_domain) is None:
                return False
            # We hold the write lock: no entry begins to federate with it before we are done.
            entries = await federating(connection, trust_domain)
            if entries and mode is BundleDeletion.RESTRICT:
                raise BUNDLE_IN_USE.error(
                    f"cannot delete bundle; federated with {len(entries)} registration entries"
                )
            if any(entry.id not in known for entry in entries):
                raise ENTRIES_CHANGED.error(f"further entries federate with {trust_domain} meanwhile")
            if mode is BundleDeletion.DELETE:
                await remove(connection, entries)
            else:
                await dissociate(connection, entries, trust_domain)
            await connection.execute(delete(table).where(table.c.trust_domain == trust_domain))
        self._changes.publish("bundle")
        if entries:
            self._changes.publish("entries")
        return True


async def write_bundle(connection: AsyncConnection, bundle: TrustBundle) -> None:
    """Keep a bundle, as part of somebody's transaction."""
    values: dict[str, Any] = {
        "trust_domain": bundle.trust_domain,
        "x509_authorities": bundle.x509_authorities,
        "jwt_authorities": bundle.jwt_authorities,
        "sequence": str(bundle.sequence),
        "refresh_hint": bundle.refresh_hint,
        "tainted_x509": bundle.tainted_x509,
        "wit_authorities": bundle.wit_authorities,
    }
    await connection.execute(upsert(connection, table, values, key=["trust_domain"]))


async def _one(connection: AsyncConnection, trust_domain: TrustDomain) -> TrustBundle | None:
    query = select(table).where(table.c.trust_domain == trust_domain)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _bundle(row)


def _bundle(row: Row[Any]) -> TrustBundle:
    return TrustBundle(
        trust_domain=row.trust_domain,
        x509_authorities=row.x509_authorities,
        jwt_authorities=row.jwt_authorities,
        sequence=int(row.sequence),
        refresh_hint=row.refresh_hint,
        tainted_x509=row.tainted_x509,
        wit_authorities=row.wit_authorities,
    )
