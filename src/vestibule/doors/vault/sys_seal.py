"""``sys/init``, ``unseal``, ``seal``, ``rekey/``, ``rotate``, ``key-status``, ``seal-status`` and ``health``.

https://developer.hashicorp.com/vault/api-docs/system

Everybody who has an identity may ask how things are, and give a share.  All else is for administrators, also what Vault
lets anybody do who reaches it (to initialise, to begin a rekey).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from vestibule import __version__
from vestibule.clock import Clock
from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.doors.vault.operations import Answer, Operation, VaultRequest
from vestibule.secrets.ports import Verb
from vestibule.secrets.sealing import RekeyStatus, Sealing, SealStatus
from vestibule.secrets.seals.codes import CEREMONY
from vestibule.secrets.seals.ports import Plan

_Run = Callable[[], Awaitable[Answer]]
_ACTIVE: Final = 200
_UNINITIALISED: Final = 501
_SEALED: Final = 503
_LONGEST_SHARE: Final = 1024
_STATUS: Final = re.compile(r"[2-5][0-9]{2}", re.ASCII)


class SealBackend:
    """The ceremonies.  ``forget`` is called when the manager is sealed: what is in memory beside the barrier goes."""

    def __init__(
        self,
        sealing: Sealing,
        clock: Clock,
        *,
        cluster: str,
        storage: str,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._sealing = sealing
        self._clock = clock
        self._cluster = cluster
        self._storage = storage
        self._forget = forget

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210."""
        match request.method, request.path.removeprefix("sys/"):
            case "GET", "health":
                return _told("health", lambda: self._health(request.query))
            case "GET", "seal-status":
                return _told("seal-status", self._seal_status)
            case "GET", "init":
                return _told("init", self._is_initialised)
            case "POST", "init":
                return self._init(request)
            case "POST", "unseal":
                return self._unseal(request)
            case "POST", "seal":
                return _done("seal", lambda: self._seal(request))
            case "POST", "rotate":
                return _done("rotate", lambda: self._rotate(request), Verb.ROTATE)
            case "GET", "key-status":
                return _seen("key-status", self._key_status)
            case "GET", "rekey/init" | "rekey/verify":
                return _seen("rekey", self._rekey_status)
            case "POST", "rekey/init":
                return self._rekey(request)
            case "DELETE", "rekey/init" | "rekey/verify":
                return _done("rekey", lambda: self._cancel(request), Verb.ROTATE)
            case "POST", "rekey/update":
                return self._rekey_share(request, verifying=False)
            case "POST", "rekey/verify":
                return self._rekey_share(request, verifying=True)
        return None

    # ---------------------------------------------------------------------------------------- how things are

    async def _health(self, query: Mapping[str, str]) -> Answer:
        status = await self._sealing.status()
        if not status.initialised:
            code = _code(query, "uninitcode", _UNINITIALISED)
        elif status.sealed:
            code = _code(query, "sealedcode", _SEALED)
        else:
            code = _code(query, "activecode", _ACTIVE)
        told = {
            "initialized": status.initialised,
            "sealed": status.sealed,
            "standby": False,
            "performance_standby": False,
            "replication_performance_mode": "disabled",
            "replication_dr_mode": "disabled",
            "server_time_utc": int(self._clock.now().timestamp()),
            "version": __version__,
            "cluster_name": self._cluster,
            "cluster_id": self._cluster,
        }
        return Answer(top=told, status=code)

    async def _seal_status(self) -> Answer:
        return Answer(top=self._told(await self._sealing.status()))

    async def _is_initialised(self) -> Answer:
        return Answer(top={"initialized": (await self._sealing.status()).initialised})

    def _told(self, status: SealStatus) -> dict[str, Any]:
        return {
            "type": status.kind,
            "initialized": status.initialised,
            "sealed": status.sealed,
            "t": status.plan.threshold if status.plan else 0,
            "n": status.plan.shares if status.plan else 0,
            "progress": status.progress,
            "nonce": status.nonce,
            "version": __version__,
            "build_date": "",
            "migration": False,
            "recovery_seal": False,
            "storage_type": self._storage,
            "cluster_name": self._cluster,
            "cluster_id": self._cluster,
            # Every workload may ask: why, in full, which may name files and tokens of the server, is for operators.
            **({"warnings": [status.problem.partition(" ")[0]]} if status.problem else {}),
        }

    # ------------------------------------------------------------------------------------------- ceremonies

    def _init(self, request: VaultRequest) -> Operation:
        plan = _plan(request.body)
        if any(request.body.get(name) for name in ("pgp_keys", "root_token_pgp_key", "recovery_pgp_keys")):
            raise VAULT_FIELD.error("shares are not encrypted here: leave the PGP keys out")

        async def run() -> Answer:
            shares = await self._sealing.init(plan, actor=request.caller.name)
            # There is no root token: who may do what stands in the intent.
            return Answer(top={**_shares(shares), "root_token": ""}, detail={"shares": len(shares)})

        return _done("init", run)

    def _unseal(self, request: VaultRequest) -> Operation:
        body = request.body
        accept = bool(fields.switch(body, "accept_rollback", default=False))
        if fields.switch(body, "reset", default=False):

            async def reset() -> Answer:
                await self._sealing.forget_shares(actor=request.caller.name)
                return await self._seal_status()

            return _done("unseal", reset)
        text = fields.text(body, "key")
        share = _share(text) if text else None

        async def run() -> Answer:
            status = await self._sealing.unseal(share, actor=request.caller.name, accept_rollback=accept)
            return Answer(top=self._told(status), detail={"sealed": int(status.sealed)})

        # To take back what was written since, or to open a seal without shares, is nobody's by a share alone.
        operators = accept or share is None
        return Operation(
            verb=Verb.WRITE,
            resource="sys/unseal",
            run=run,
            changes=True,
            open=not operators,
            operators=operators,
        )

    async def _seal(self, request: VaultRequest) -> Answer:
        await self._sealing.seal(actor=request.caller.name)
        self._forget()
        return Answer()

    async def _rotate(self, request: VaultRequest) -> Answer:
        number = await self._sealing.rotate_data_key(actor=request.caller.name)
        return Answer(detail={"term": number})

    async def _key_status(self) -> Answer:
        status = await self._sealing.status()
        told = {"term": status.key_id, "reencrypting": status.reencrypting, "generation": status.generation}
        return Answer(top={**told, "data": told})

    # ------------------------------------------------------------------------------------------------ rekey

    def _rekey(self, request: VaultRequest) -> Operation:
        plan = _plan(request.body)
        verification = bool(fields.switch(request.body, "require_verification", default=False))
        rotate_root = bool(fields.switch(request.body, "rotate_root_key", default=False))

        async def run() -> Answer:
            status = await self._sealing.rekey(
                plan, actor=request.caller.name, verification=verification, rotate_root=rotate_root
            )
            return Answer(top=_rekey_told(status))

        return _done("rekey", run, Verb.ROTATE)

    def _rekey_share(self, request: VaultRequest, *, verifying: bool) -> Operation:
        nonce, share = fields.text(request.body, "nonce"), _share(fields.text(request.body, "key"))
        give = self._sealing.rekey_verify if verifying else self._sealing.rekey_share

        async def run() -> Answer:
            return Answer(top=_rekey_told(await give(nonce, share, actor=request.caller.name)))

        return _done("rekey", run, Verb.ROTATE)

    async def _rekey_status(self) -> Answer:
        status = self._sealing.rekeying
        return Answer(top={"started": False} if status is None else _rekey_told(status))

    async def _cancel(self, request: VaultRequest) -> Answer:
        if self._sealing.rekeying is None:
            raise CEREMONY.error("no rekey is under way")
        await self._sealing.cancel_rekey(actor=request.caller.name)
        return Answer()


def _told(name: str, run: _Run) -> Operation:
    return Operation(verb=Verb.READ, resource=f"sys/{name}", run=run, open=True, recorded=False)


def _seen(name: str, run: _Run) -> Operation:
    return Operation(verb=Verb.READ, resource=f"sys/{name}", run=run, operators=True)


def _done(name: str, run: _Run, verb: Verb = Verb.WRITE) -> Operation:
    return Operation(verb=verb, resource=f"sys/{name}", run=run, changes=True, operators=True)


def _code(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if _STATUS.fullmatch(text) else default


def _plan(body: Mapping[str, Any]) -> Plan:
    shares = fields.number(body, "secret_shares", 1)
    threshold = fields.number(body, "secret_threshold", 1)
    return Plan(shares=shares or 1, threshold=threshold or 1)


def _share(text: str) -> bytes:
    """In hex or base64, as Vault takes them.  What is wrong about it is not repeated."""
    if text and len(text) <= _LONGEST_SHARE and text.isascii():
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            pass
    raise VAULT_FIELD.error("key is not a share in hex or base64")


def _shares(shares: tuple[bytes, ...]) -> dict[str, Any]:
    return {
        "keys": [each.hex() for each in shares],
        "keys_base64": [base64.b64encode(each).decode() for each in shares],
    }


def _rekey_told(status: RekeyStatus) -> dict[str, Any]:
    return {
        "started": not status.complete,
        "complete": status.complete,
        "nonce": status.nonce,
        "t": status.plan.threshold,
        "n": status.plan.shares,
        "progress": status.progress,
        "required": status.required,
        "verification_required": status.verification,
        **({"verification_nonce": status.nonce} if status.verifying else {}),
        **(_shares(status.shares) if status.shares else {}),
    }
