"""The door for questions about calls (envoy.service.auth.v3.Authorization), in gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from envoy.service.auth.v3 import external_auth_pb2 as pb

from vestibule.doors.checks import Answering
from vestibule.net.grpc import Servable, Stream, serve

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Authorization"]
METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"


MAX_MESSAGE: Final = 256 * 1024
"""Bytes of one question: Envoy's headers have 60 KiB at most, and bodies are cut off at 64."""


class AuthorizationDoor:
    """Answers those for whom there is somebody who answers: ``of`` tells from the connection."""

    def __init__(self, of: Callable[[Stream], Answering]) -> None:
        self._of = of

    def servable(self) -> Servable:
        """The service, ready for a gRPC server."""
        return serve(SERVICE, self)

    async def check(self, stream: Stream) -> None:
        """Authorization.Check.  Raises: what is raised for those for whom nobody answers."""
        answering = self._of(stream)
        message = await stream.recv_message()
        if message is not None:
            await stream.send_message(
                pb.CheckResponse.FromString(answering.answer(message.SerializeToString()))
            )


RECHECK_SECONDS: Final = 1.0
"""For so long a connection is believed to be whose it was."""


class Attested:
    """Answers over one connection, whose other end is looked at again every second."""

    def __init__(self, look: Callable[[], Answering], now: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._now = now
        self._answering: Answering | None = None
        self._until = 0.0

    def answer(self, data: bytes) -> bytes:
        """As ``Answering.answer``.  Raises: what looking raises."""
        now = self._now()
        if self._answering is None or now >= self._until:
            self._answering = None
            self._answering = self._look()
            self._until = now + RECHECK_SECONDS
        return self._answering.answer(data)
