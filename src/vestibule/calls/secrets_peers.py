"""What a sealed server asks another one of its database."""

from __future__ import annotations

from collections.abc import Callable

from vestibule.calls.channel import ServerChannel
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.node.v1 import secrets_pb2 as wire


class SecretsPeer:
    """``secrets.seals.peers.Peer``: a client of ``vestibule.node.v1.SecretsPeers``.

    The channel makes sure who answers: a server of the trust domain, whose certificate is not revoked.
    """

    def __init__(self, channel: Callable[[], ServerChannel]) -> None:
        """``channel`` makes one for each question, which shows the server's own SVID; questions are rare."""
        self._channel = channel

    async def unseal(self, public_key: bytes) -> bytes:
        """The root key in a box.  Raises: VST2300, VST2315, and what the other one answers."""
        channel = self._channel()
        try:
            client = Client(channel, wire.DESCRIPTOR.services_by_name["SecretsPeers"])
            answer = await client.unary("Unseal", wire.PeerUnsealRequest(public_key=public_key), timeout=10.0)
            return bytes(answer.box)
        finally:
            channel.close()
