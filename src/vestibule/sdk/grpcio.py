"""gRPC by grpcio, Google's library, with library mTLS."""

from vestibule.sdk.calling.grpcio import Bridge, bridge, channel_credentials
from vestibule.sdk.serving.grpcio import AioCallers, Callers, caller, server_credentials, server_options

__all__ = [
    "AioCallers",
    "Bridge",
    "Callers",
    "bridge",
    "caller",
    "channel_credentials",
    "server_credentials",
    "server_options",
]
