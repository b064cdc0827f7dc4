"""Another workload at the callee's address: a TLS server with a real SVID, but not the callee's."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Final, Self

from vestibule.app.up.dialling import server_context
from vestibule.records import Address
from vestibule.spiffe import X509Svid

_PATIENCE: Final = 5.0
_RETRY_EVERY: Final = 0.01
_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nimpostor"


class Impostor:
    """Serves on an address that its owner left, and counts who came and who trusted it.

    ``dialled`` are the TCP connections that arrived; ``trusted`` those on which anything was sent after the
    handshake: a request that must never have been.
    """

    def __init__(self, address: Address, svid: X509Svid) -> None:
        self.dialled = 0
        self.trusted = 0
        self._context = server_context(svid)
        self._listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        # The sidecar that was stopped still keeps the port for its Envoy, which takes it just like this.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._address = (address.host, address.port)
        self._thread = threading.Thread(target=self._serve, name="impostor", daemon=True)

    def __enter__(self) -> Self:
        """Listen, as soon as the owner's last thread is gone.  Blocks.  Raises: OSError while somebody else listens."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._listener.bind(self._address)
                self._listener.listen(16)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    self._listener.close()
                    raise
                time.sleep(_RETRY_EVERY)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone would not wake the thread from accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.dialled += 1
            self._receive(connection)

    def _receive(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        try:
            with connection, self._context.wrap_socket(connection, server_side=True) as tls:
                if tls.recv(1):
                    self.trusted += 1
                    tls.sendall(_ANSWER)
        except (OSError, ssl.SSLError):
            # Being hung up on is what should happen.
            return
