"""``vestibule.admin.v1.IntentAdmin``: the files of the intent in force, for the operator on the private socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from vestibule.doors.identity_api.values import receive
from vestibule.mesh import Source
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.vestibule.admin.v1 import intent_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["IntentAdmin"]
PART: Final = 512 * 1024
"""Bytes of files in one message, or one file."""


class IntentDoor:
    """Gives what the source holds; ``None``: there is no mesh."""

    def __init__(self, source: Callable[[], Source | None]) -> None:
        self._source = source

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_files(self, stream: Stream) -> None:
        """GetFiles."""
        await receive(stream)
        source = self._source()
        reading = None if source is None else source.reading
        if source is None or reading is None or reading.intent is None:
            await stream.send_message(wire.IntentFiles(place=source.place if source else ""))
            return
        for part in _parts(reading.files):
            message = wire.IntentFiles(version=reading.intent.version, place=source.place, files=part)
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
