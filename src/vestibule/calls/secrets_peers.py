"""What a sealed server asks another one of its database."""

from __future__ import annotations

from vestibule.calls.channel import ServerChannel
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.node.v1 import secrets_pb2 as wire


class SecretsPeer:
    """``secrets.seals.peers.Peer``: a client of ``vestibule.node.v1.SecretsPeers``.

    The channel has made sure who answers: a server of the trust domain, whose certificate is not revoked.
    """

    def __init__(self, channel: ServerChannel) -> None:
        """The ``channel`` shows the server's own SVID."""
        self._client = Client(channel, wire.DESCRIPTOR.services_by_name["SecretsPeers"])

    async def unseal(self, public_key: bytes) -> bytes:
        """The root key in a box.  Raises: VST2300, VST2315, and what the other one answers."""
        answer = await self._client.unary(
            "Unseal", wire.PeerUnsealRequest(public_key=public_key), timeout=10.0
        )
        return bytes(answer.box)
