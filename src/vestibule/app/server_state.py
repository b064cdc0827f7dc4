"""What a server keeps on its machine and in its database, opened and closed in the right order."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestibule.app.codes import DATA_IN_USE, FOREIGN_DATA
from vestibule.app.server_audit import Following, opened_log
from vestibule.app.server_settings import ServerSettings
from vestibule.app.server_store import opened_store
from vestibule.audit import AuditLog, DeferringAudit
from vestibule.clock import Clock
from vestibule.processes import private_directory
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.spiffe import TrustDomain
from vestibule.store import Store
from vestibule.store.issued import IssuedFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The store, the audit log and the files of what was issued, with the time and the trust domain they are of."""

    store: Store
    log: AuditLog
    following: Following
    audit: DeferringAudit
    issued: IssuedFiles
    clock: Clock
    domain: TrustDomain


@asynccontextmanager
async def opened_state(settings: ServerSettings, clock: Clock) -> AsyncIterator[State]:
    """Nobody else works with it meanwhile.  The files of what was issued are not read yet.

    Raises: VST7003 (directory), VST9111 (in use), VST9112 (foreign data), errors of store and audit.
    """
    data = private_directory(settings.data_dir)
    with _sole_user(data):
        store = await opened_store(settings, clock)
        try:
            async with opened_log(settings, clock) as (log, following):
                issued = IssuedFiles(data / "issued")
                try:
                    await _check_trust_domain(store, settings.trust_domain)
                    yield State(
                        store=store,
                        log=log,
                        following=following,
                        audit=DeferringAudit(log, clock),
                        issued=issued,
                        clock=clock,
                        domain=settings.trust_domain,
                    )
                finally:
                    issued.close()
        finally:
            await store.close()


@contextmanager
def _sole_user(directory: Path) -> Iterator[None]:
    """Hold the directory: two servers on one database would each sign and rotate on their own."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NOT_WRITABLE.error(f"cannot write in {directory}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DATA_IN_USE.error(f"another server works with {directory}") from None
        yield
    finally:
        os.close(descriptor)


async def _check_trust_domain(store: Store, domain: TrustDomain) -> None:
    if await store.authorities.all() and await store.bundles.get(domain) is None:
        raise FOREIGN_DATA.error(f"the data directory does not belong to the trust domain {domain}")
