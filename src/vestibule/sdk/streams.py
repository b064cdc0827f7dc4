"""asyncio's streams with library mTLS."""

import asyncio

from vestibule.sdk.calling.streams import ClientConnection, open_connection
from vestibule.sdk.serving.streams import StreamServer, caller, start_server
from vestibule.sdk.serving.streams import retiring as _serving_retiring

__all__ = ["StreamServer", "caller", "open_connection", "retiring", "start_server"]


def retiring(writer: asyncio.StreamWriter) -> asyncio.Event:
    """Is set when a connection should end soon: its certificates do, or its server stops."""
    protocol = writer.transport.get_protocol()
    return protocol.retiring if isinstance(protocol, ClientConnection) else _serving_retiring(writer)
