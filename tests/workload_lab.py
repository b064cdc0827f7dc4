"""Workload APIs of several workloads of one trust domain, each with one identity that is renewed when a test says so.

Certificates last for an hour unless told otherwise; they are *replaced* by tests, not waited for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests import workload_api

from vestibule.agent.codes import NO_IDENTITY
from vestibule.spiffe import Revocation, SpiffeId
from vestibule.spiffe.revocations import RevokedIdentity
from vestibule.testing import TestAuthority

HOUR = timedelta(hours=1)


class Endpoint(workload_api.Endpoint):
    """The Workload API of one workload: ``SPIFFE_ENDPOINT_SOCKET`` is ``address``."""

    def __init__(self, path: Path, authority: TestAuthority, who: str) -> None:
        super().__init__(path, authority, revocations=True)
        self.spiffe_id = SpiffeId.of(authority.trust_domain, who)
        self.issue()

    def issue(self, *, ttl: timedelta = HOUR, dns_names: tuple[str, ...] = ()) -> None:
        """A new certificate for everybody who asks, now and on open streams."""
        self.api.show(self.api.authority.svid(self.spiffe_id, ttl=ttl, dns_names=dns_names))

    def withdraw(self) -> None:
        """There is no identity any more."""
        self.api.say(NO_IDENTITY.error("the test withdrew it"))

    def revoke(self, somebody: SpiffeId) -> None:
        """Tell this workload that somebody is revoked."""
        assert self.revocations is not None
        self.revocations.revoke(Revocation(target=RevokedIdentity(spiffe_id=somebody), at=datetime.now(UTC)))


@asynccontextmanager
async def endpoints(*who: str, authority: TestAuthority | None = None) -> AsyncIterator[list[Endpoint]]:
    """Workload APIs of so many workloads of one trust domain; paths such as ``/orders``."""
    issuer = authority or TestAuthority("example.org")
    directory = Path(tempfile.mkdtemp(prefix="vw", dir="/tmp"))
    made = [Endpoint(directory / f"{number}.sock", issuer, each) for number, each in enumerate(who)]
    try:
        for each in made:
            await each.start()
        yield made
    finally:
        for each in made:
            await each.stop()
        shutil.rmtree(directory, ignore_errors=True)
