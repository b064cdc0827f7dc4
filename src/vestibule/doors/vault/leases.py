"""``sys/leases/``: what is lent, for how long; renewed, given back, taken away.

https://developer.hashicorp.com/vault/api-docs/system/leases

A lease belongs to whom it was made for: he may look at it and give it back without a rule, and renew it as long as a
rule lets him ask for the like of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.doors.vault import fields
from vestibule.doors.vault.database_forms import instant
from vestibule.doors.vault.operations import Answer, LeaseAnswer, Operation, Owned, VaultRequest
from vestibule.secrets.leases import Lease, Leases, LeaseState, path_of, prefix_of
from vestibule.secrets.leases.codes import NOT_REVOKED_YET, UNKNOWN_LEASE
from vestibule.secrets.leases.service import checked
from vestibule.secrets.ports import Verb
from vestibule.spiffe import SpiffeId

MOUNT: Final = "sys/leases"
MOST_TOLD: Final = 1000
_ROLES: Final = "database/creds/"
_QUEUED: Final = (
    "The lease has ended, but its credentials are not removed yet; it is tried again until they are: {}"
)

_Run = Callable[[], Awaitable[Answer]]


class LeasesBackend:
    """``Backend`` of ``sys/leases/``."""

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210, VST5404."""
        rest = request.path.removeprefix(MOUNT).strip("/")
        what, _, path = rest.partition("/")
        if request.method == "GET" and what in ("", "count") and not path:
            return self._irrevocable(counted=what == "count")
        if request.method == "LIST" and what == "lookup":
            return self._list(path)
        if request.method != "POST":
            return None
        if what in ("lookup", "renew", "revoke"):
            lease_id = checked(fields.text(request.body, "lease_id") or path)
            return {"lookup": self._lookup, "renew": self._renew, "revoke": self._revoke}[what](
                request, lease_id
            )
        if what in ("revoke-prefix", "revoke-force") and path:
            return (
                self._revoke_prefix(request, path) if what == "revoke-prefix" else self._force(request, path)
            )
        return None

    # ---------------------------------------------------------------------------------------- one lease

    def _lookup(self, _request: VaultRequest, lease_id: str) -> Operation:
        async def run() -> Answer:
            lease = await self._leases.lookup(lease_id)
            if lease is None:
                raise UNKNOWN_LEASE.error("invalid lease")
            return Answer(data=self._form(lease))

        return self._of_one(Verb.LIST, lease_id, run, Owned(owner=self._owner_of(lease_id)))

    def _renew(self, request: VaultRequest, lease_id: str) -> Operation:
        increment = fields.duration(request.body, "increment") or timedelta(0)

        async def run() -> Answer:
            lease = await self._leases.renew(lease_id, increment)
            left = lease.expires - self._clock.now()
            capped = lease.expires == lease.latest and left < (increment or lease.ttl)
            warnings = (f"TTL of {increment or lease.ttl} exceeds what is left of the lease's longest life",)
            return Answer(
                lease=LeaseAnswer(lease_id=lease.id, duration=left, renewable=lease.renewable),
                warnings=warnings if capped else (),
            )

        owned = Owned(owner=self._owner_of(lease_id), verb=Verb.READ)
        return self._of_one(Verb.ROTATE, lease_id, run, owned, changes=True)

    def _revoke(self, request: VaultRequest, lease_id: str) -> Operation:
        wait = fields.switch(request.body, "sync") or False

        async def run() -> Answer:
            problem = await self._leases.revoke(lease_id, _by(request))
            if problem is not None and wait:
                raise NOT_REVOKED_YET.error(
                    f"the lease has ended; its credentials are not removed yet: {problem}"
                )
            return Answer(warnings=(_QUEUED.format(problem),) if problem else ())

        return self._of_one(Verb.ROTATE, lease_id, run, Owned(owner=self._owner_of(lease_id)), changes=True)

    def _of_one(
        self, verb: Verb, lease_id: str, run: _Run, owned: Owned, *, changes: bool = False
    ) -> Operation:
        return Operation(
            verb=verb,
            resource=path_of(lease_id),
            run=run,
            changes=changes,
            owned=owned,
            or_operators=True,
            detail={"lease": lease_id},
        )

    def _owner_of(self, lease_id: str) -> Callable[[], Awaitable[SpiffeId | None]]:
        async def owner() -> SpiffeId | None:
            lease = await self._leases.lookup(lease_id)
            return lease.owner if lease else None

        return owner

    # ---------------------------------------------------------------------------------------- many

    def _revoke_prefix(self, request: VaultRequest, path: str) -> Operation:
        wait = fields.switch(request.body, "sync") or False

        async def run() -> Answer:
            return Answer(detail={"leases": await self._leases.revoke_prefix(path, _by(request), wait=wait)})

        return self._of_many(Verb.ROTATE, path, run, changes=True)

    def _force(self, request: VaultRequest, path: str) -> Operation:
        async def run() -> Answer:
            left = await self._leases.force(path, _by(request))
            told = tuple(f"forgotten, and perhaps still usable: {each}" for each in left[:MOST_TOLD])
            return Answer(warnings=told, detail={"forgotten": len(left)})

        resource = prefix_of(path).removesuffix("/")
        return Operation(verb=Verb.ROTATE, resource=resource, run=run, changes=True, operators=True)

    def _list(self, path: str) -> Operation:
        async def run() -> Answer:
            keys = await self._leases.children(path)
            return Answer(data={"keys": keys}, detail={"keys": len(keys)}) if keys else Answer(status=404)

        return self._of_many(Verb.LIST, path, run) if path else self._for_operators(Verb.LIST, "", run)

    def _irrevocable(self, *, counted: bool) -> Operation:
        async def run() -> Answer:
            failing = await self._leases.failing(MOST_TOLD)
            mounts: dict[str, int] = {}
            for each in failing:
                mounts[f"{each.mount}/"] = mounts.get(f"{each.mount}/", 0) + 1
            data: dict[str, Any] = {"lease_count": len(failing), "counts": mounts}
            if not counted:
                data["leases"] = [{"lease_id": each.id, "error": each.problem} for each in failing]
            return Answer(data=data)

        return self._for_operators(Verb.LIST, "", run)

    def _of_many(self, verb: Verb, path: str, run: _Run, *, changes: bool = False) -> Operation:
        """All leases of one role need a rule about the role; all of more than that, an administrator."""
        prefix = prefix_of(path).removesuffix("/")
        if prefix.startswith(_ROLES) and "/" not in prefix.removeprefix(_ROLES):
            return Operation(verb=verb, resource=prefix, run=run, changes=changes, or_operators=True)
        return self._for_operators(verb, prefix, run, changes=changes)

    def _for_operators(self, verb: Verb, path: str, run: _Run, *, changes: bool = False) -> Operation:
        return Operation(verb=verb, resource=path or MOUNT, run=run, changes=changes, operators=True)

    def _form(self, lease: Lease) -> Mapping[str, Any]:
        left = (lease.expires - self._clock.now()).total_seconds()
        form: dict[str, Any] = {
            "id": lease.id,
            "path": lease.path,
            "issue_time": instant(lease.issued),
            "expire_time": instant(lease.expires),
            "last_renewal": instant(lease.renewed),
            "renewable": lease.renewable,
            "ttl": max(0, int(left)),
            "owner": str(lease.owner),
            "state": lease.state.value,
        }
        if lease.state is LeaseState.REVOKING:
            form |= {
                "attempts": lease.attempts,
                "last_error": lease.problem,
                "reason": lease.reason,
                "ttl": 0,
            }
        return form


def _by(request: VaultRequest) -> str:
    return f"revoked by {request.caller.spiffe_id}"
