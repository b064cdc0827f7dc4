"""``sys/wrapping/``, and what the pipeline does with an answer that is to be wrapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from vestibule.doors.vault import fields
from vestibule.doors.vault.operations import Answer, Operation, VaultRequest
from vestibule.secrets.codes import WRAPPING_UNFIT
from vestibule.secrets.ports import Verb
from vestibule.secrets.wrapping import PREFIX, Wrapped, Wrapping

MOUNT: Final = "sys/wrapping"


def is_wrapping_token(token: str) -> bool:
    """Whether what came as ``X-Vault-Token`` is no login, but the token of something wrapped."""
    return token.startswith(PREFIX)


def wrap_info(wrapped: Wrapped) -> dict[str, Any]:
    """As Vault's envelope has it."""
    return {
        "token": wrapped.token,
        "accessor": wrapped.accessor,
        "ttl": int(wrapped.ttl.total_seconds()),
        "creation_time": wrapped.created.isoformat().replace("+00:00", "Z"),
        "creation_path": wrapped.path,
    }


async def wrapped_answer(
    wrapping: Wrapping, envelope: Mapping[str, Any], request: VaultRequest, ttl: timedelta
) -> dict[str, Any]:
    """Keep an envelope, and tell the ``wrap_info`` that is answered in its place.  Raises: VST5553, VST80nn."""
    wrapped = await wrapping.wrap(
        json.dumps(envelope).encode(), ttl, path=request.path, creator=str(request.caller.spiffe_id)
    )
    return wrap_info(wrapped)


class WrappingBackend:
    """For everybody who has an identity: the token is what opens."""

    def __init__(self, wrapping: Wrapping) -> None:
        self._wrapping = wrapping

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210, VST5553."""
        what = request.path.removeprefix(f"{MOUNT}/")
        if request.method != "POST" and (request.method, what) != ("GET", "lookup"):
            return None
        if what == "wrap":
            return self._wrap(request)
        token = fields.text(request.body, "token") or request.token
        match what:
            case "unwrap":
                return _open(what, lambda: self._unwrap(token), changes=True)
            case "lookup":
                return _open(what, lambda: self._lookup(token))
            case "rewrap":
                return _open(what, lambda: self._rewrap(token), changes=True)
        return None

    def _wrap(self, request: VaultRequest) -> Operation:
        """What is sent comes back: the pipeline wraps it."""
        if request.wrap_ttl is None:
            raise WRAPPING_UNFIT.error("X-Vault-Wrap-TTL is not set")

        async def run() -> Answer:
            return Answer(data=request.body)

        return _open("wrap", run, changes=True)

    async def _unwrap(self, token: str) -> Answer:
        answer, wrapped = await self._wrapping.unwrap(token)
        return Answer(top=json.loads(answer), detail=_detail(wrapped))

    async def _lookup(self, token: str) -> Answer:
        wrapped = await self._wrapping.lookup(token)
        told = wrap_info(wrapped)
        data = {
            "creation_ttl": told["ttl"],
            **{name: told[name] for name in ("creation_time", "creation_path")},
        }
        return Answer(data=data, detail=_detail(wrapped))

    async def _rewrap(self, token: str) -> Answer:
        old, new = await self._wrapping.rewrap(token)
        return Answer(
            top={"wrap_info": wrap_info(new)}, detail={**_detail(old), "new_accessor": new.accessor}
        )


def _detail(wrapped: Wrapped) -> dict[str, str | int]:
    """What was opened: the answer to which path, asked by whom."""
    return {
        "wrapping_accessor": wrapped.accessor,
        "wrapped_path": wrapped.path,
        "wrapped_by": wrapped.creator,
    }


def _open(what: str, run: Any, *, changes: bool = False) -> Operation:
    return Operation(verb=Verb.USE, resource=f"{MOUNT}/{what}", run=run, changes=changes, open=True)
