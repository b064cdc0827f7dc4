"""The sidecar's own secret discovery: a socket on which its Envoy asks for what stands in files of this host, and for
tokens to send along.

Most sidecars are never asked: what answers is loaded with the first connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from vestibule.net.unix import UnixListener, listen_unix
from vestibule.processes import User
from vestibule.proxy.fetched_tokens import FetchedTokens
from vestibule.proxy.host_files import HostFiles

if TYPE_CHECKING:
    from vestibule.net.grpc_server import GrpcServer


class HostSecrets:
    """``open`` it before Envoy starts; ``run`` serves until cancelled.  ``owner`` is whom Envoy runs as.

    ``token_socket`` is where Envoy leads to the mesh's own token service.
    """

    def __init__(
        self, files: HostFiles, path: Path, token_socket: Path, *, owner: User | None = None
    ) -> None:
        self.files = files
        self.tokens = FetchedTokens(token_socket, files.tell)
        self._path = path
        self._owner = owner
        self._listener: UnixListener | None = None

    def open(self) -> None:
        """Listen, in a directory that is nobody else's.  Raises: VST2310, VST2311."""
        self._listener = listen_unix(self._path, 0o600)
        if self._owner is not None:
            os.chown(self._path, self._owner.uid, self._owner.gid, follow_symlinks=False)

    async def run(self) -> None:
        """Wait for the first connection, then serve, and follow the files."""
        assert self._listener is not None
        await _readable(self._listener.sock)
        server = self._server()
        await server.listen(self._listener.sock)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.files.run(), name="host-files")
                tasks.create_task(self.tokens.run(), name="fetched-tokens")
        finally:
            await server.close()

    def close(self) -> None:
        """Stop listening.  Safe to call twice."""
        if self._listener is not None:
            self._listener.close()

    def _server(self) -> GrpcServer:
        from vestibule.doors.host_secrets import HostSecretsDoor
        from vestibule.net.grpc_server import GrpcServer

        return GrpcServer([HostSecretsDoor(self.files, self.tokens).servable()])


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
