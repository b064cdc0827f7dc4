"""gRPC by grpclib with library mTLS."""

from vestibule.sdk.calling.grpc import MtlsChannel, channel
from vestibule.sdk.serving.grpc import Server, caller, retiring, serve

__all__ = ["MtlsChannel", "Server", "caller", "channel", "retiring", "serve"]
