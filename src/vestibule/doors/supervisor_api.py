"""The door for the process that started the agent (vestibule.node.v1.Supervisor).

It is served on one inherited descriptor and nowhere else: holding the other end is the credential.
"""

from __future__ import annotations

from typing import Final

from vestibule.agent.sidecars import Grants
from vestibule.agent.sidecars.codes import OUT_OF_STEP
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Supervisor"]
DIGEST_BYTES: Final = 32


class SupervisorDoor:
    """Takes the hashes of the keys that sidecars will show."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def grant(self, stream: Stream) -> None:
        """Supervisor.Grant.  Raises: VST2134."""
        request = await stream.recv_message()
        if len(request.key_sha256) != DIGEST_BYTES or not request.service:
            raise OUT_OF_STEP.error("a grant names a service and the SHA-256 of a key")
        self._grants.grant(request.key_sha256, request.service)
        await stream.send_message(wire.GrantResponse())

    async def revoke(self, stream: Stream) -> None:
        """Supervisor.Revoke: the key no longer opens anything; streams it opened go on."""
        request = await stream.recv_message()
        self._grants.revoke(request.key_sha256)
        await stream.send_message(wire.RevokeResponse())
