"""``vestibule.admin.v1.SecretsAdmin``: the secret manager's API for operators, on the server's private socket.

A request goes through the same pipeline as one that comes over HTTP.  Its caller is the local operator, who may do
everything: whoever may use that socket can also mint an SVID for any identity, so that a rule would only be a detour.
Everything that is done is on record under ``local:uid=N``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final
from urllib.parse import quote
from uuid import uuid4

from vestibule.clock import Clock
from vestibule.doors.identity_api.values import actor, receive
from vestibule.doors.secrets_sealing import SealingDoor
from vestibule.doors.vault.app import object_of, written
from vestibule.doors.vault.codes import METHOD_REFUSED, NO_SECRET_MANAGER
from vestibule.doors.vault.operations import OPERATOR, Caller, VaultRequest
from vestibule.doors.vault.paths import path_of
from vestibule.doors.vault.pipeline import Handler
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.secrets.sealing import Sealing
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SecretsAdmin"]
OPERATOR_PATH: Final = "/vestibule/operator"
"""Of the SPIFFE ID that stands for operators where one is needed; no SVID has it."""

_METHODS: Final = frozenset({"GET", "LIST", "POST", "PATCH", "DELETE"})


class SecretsAdminDoor(SealingDoor):
    """Translates for the pipeline, and for the ceremonies.  Without them there is no secret manager."""

    def __init__(
        self,
        handle: Handler | None,
        sealing: Sealing | None,
        trust_domain: TrustDomain,
        clock: Clock,
        *,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(sealing, clock, forget)
        self._handle = handle
        self._operator = SpiffeId.of(trust_domain, OPERATOR_PATH)

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def call(self, stream: Stream) -> None:
        """Call.  Raises: VST5202, VST5203, VST5207, VST5212, and what the pipeline raises."""
        sent = await receive(stream)
        if self._handle is None:
            raise NO_SECRET_MANAGER.error("this server runs without a secret manager")
        if sent.method not in _METHODS:
            raise METHOD_REFUSED.error(f"the method {sent.method[:20]!r} is not served")
        request = VaultRequest(
            method=sent.method,
            path=path_of(b"/v1/" + quote(sent.path, safe="/").encode("ascii")),
            caller=Caller(spiffe_id=self._operator, via=OPERATOR, operator=actor()),
            query=dict(sent.query),
            body=object_of(sent.body),
            wrap_ttl=timedelta(seconds=sent.wrap_seconds) if sent.wrap_seconds else None,
            request_id=str(uuid4()),
        )
        answer, wrapped = await self._handle(request)
        status, body = written(answer, wrapped, request.request_id)
        await stream.send_message(
            wire.SecretsResponse(status=status, body=body, request_id=request.request_id)
        )
