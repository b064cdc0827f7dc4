"""gRPC by grpcio with library mTLS."""

from vestibule.sdk.calling.grpcio import Bridge, bridge, channel_credentials

__all__ = ["Bridge", "bridge", "channel_credentials"]
