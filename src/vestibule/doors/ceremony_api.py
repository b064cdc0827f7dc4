"""``vestibule.admin.v1.Ceremony``: the operator's side of the ceremony in which an offline root signs for a server."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from vestibule.doors.identity_api.values import receive, unix
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.ca.codes import CEREMONY_NOT_USED
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.wire.gen.vestibule.admin.v1 import ceremony_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Ceremony"]
ACTOR: Final = "local"


class CeremonyDoor:
    """Shows the request that waits, and takes the answer.  Raises VST1388 where there is no such upstream."""

    def __init__(self, upstream: CeremonyUpstream | None) -> None:
        self._upstream = upstream

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_ceremony(self, stream: Stream) -> None:
        """GetCeremony."""
        await receive(stream)
        await stream.send_message(status_of(self._used()))

    async def make_request(self, stream: Stream) -> None:
        """MakeRequest."""
        asked = await receive(stream)
        await self._used().request(asked.name, ACTOR)
        await stream.send_message(status_of(self._used()))

    async def deliver(self, stream: Stream) -> None:
        """Deliver."""
        asked = await receive(stream)
        await self._used().deliver(asked.answer, ACTOR)
        await stream.send_message(status_of(self._used()))

    def _used(self) -> CeremonyUpstream:
        if self._upstream is None:
            raise CEREMONY_NOT_USED.error("this server does not get its intermediate from a ceremony")
        return self._upstream


def status_of(upstream: CeremonyUpstream) -> wire.CeremonyStatus:
    """The state as the service tells it."""
    state = upstream.state()
    status = wire.CeremonyStatus(
        state="issuing" if state.intermediate else "waiting",
        warning=state.warning,
        problem=state.problem,
        root_key_ids=[subject_key_id(load_certificate(der)) for der in state.roots],
    )
    if (signs := state.intermediate) is not None:
        status.name = signs.name
        status.key_id = subject_key_id(signs.certificate)
        status.serial = f"{signs.certificate.serial_number:x}"
        status.not_before, status.not_after = _span(signs.not_before, signs.not_after)
    if (waiting := state.request) is not None:
        status.request_name = waiting.name
        status.request_key_id = waiting.key_id
        status.request = state.request_file
    return status


def _span(not_before: datetime, not_after: datetime) -> tuple[int, int]:
    return unix(not_before), unix(not_after)
