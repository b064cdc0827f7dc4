"""asyncio's streams with library mTLS."""

from vestibule.sdk.serving.streams import StreamServer, caller, retiring, start_server

__all__ = ["StreamServer", "caller", "retiring", "start_server"]
