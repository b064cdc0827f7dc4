"""``vestibule.node.v1.SecretsPeers``: servers of one database unseal each other."""

from __future__ import annotations

from typing import Final, Protocol

from vestibule.doors.identity_api.values import receive
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.secrets.seals.codes import PEER_REFUSED
from vestibule.wire.gen.vestibule.node.v1 import secrets_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SecretsPeers"]


class Answers(Protocol):
    """``secrets.seals.peers.PeerAnswers`` fits."""

    async def answer(self, public_key: bytes, caller: str) -> bytes:
        """The root key, in a box."""
        ...


class SecretsPeersDoor:
    """Translates for ``secrets.seals.peers``; ``None`` where unsealing by peers is not configured."""

    def __init__(self, answers: Answers | None) -> None:
        self._answers = answers

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def unseal(self, stream: Stream) -> None:
        """Unseal."""
        request = await receive(stream)
        if self._answers is None:
            raise PEER_REFUSED.error("unsealing by peers is not configured here")
        box = await self._answers.answer(request.public_key, str(current_caller()))
        await stream.send_message(wire.PeerUnsealResponse(box=box))
