"""``vestibule.admin.v1.IntentAdmin``: the files of the intent in force, for the operator on the private socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vestibule.doors.identity_api.values import receive
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.vestibule.admin.v1 import intent_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["IntentAdmin"]
PART: Final = 512 * 1024
"""Bytes of files in one message, or one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What most proxies are to have; ``version`` is empty where there is no intent."""

    version: str = ""
    place: str = ""
    files: Mapping[str, bytes]


async def nothing() -> InForce:
    """A server without a mesh."""
    return InForce(files={})


class IntentDoor:
    """Gives what is in force."""

    def __init__(self, in_force: Callable[[], Awaitable[InForce]] = nothing) -> None:
        self._in_force = in_force

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_files(self, stream: Stream) -> None:
        """GetFiles."""
        await receive(stream)
        found = await self._in_force()
        for part in _parts(found.files):
            message = wire.IntentFiles(version=found.version, place=found.place, files=part)
            await stream.send_message(message)


def _parts(files: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    part: dict[str, bytes] = {}
    size = 0
    for name, content in files.items():
        if part and size + len(content) > PART:
            yield part
            part, size = {}, 0
        part[name] = content
        size += len(content)
    yield part
