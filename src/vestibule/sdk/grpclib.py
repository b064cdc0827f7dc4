"""gRPC by grpclib with library mTLS."""

from vestibule.sdk.serving.grpc import Server, caller, retiring, serve

__all__ = ["Server", "caller", "retiring", "serve"]
