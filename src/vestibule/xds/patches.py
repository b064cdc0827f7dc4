"""Large resources of which little changes: what is the same as before is not sent again.

Only between a server and agents that say that they understand it (``ACCEPTED``).  The routes by name tell of every
service of the mesh, and a change of one is a few bytes; without this, most of what a change costs is bytes that the
agent has.  The base of a patch is what the same stream carried last under the same name: it arrived, since streams
lose nothing, whatever became of it then.  Who puts it together holds the result against its version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from operator import add
from typing import Any, Final

from google.protobuf.message import DecodeError

from vestibule.wire.gen.vestibule.xds.v1 import patch_pb2
from vestibule.xds.codes import PATCH_MISFIT
from vestibule.xds.fields import Field, fields
from vestibule.xds.messages import DeltaResponse
from vestibule.xds.protobuf import delta_response_bytes, delta_response_from, entry_of
from vestibule.xds.resources import ROUTES, Resource, short_hash

ACCEPTED: Final = "vestibule-xds-patches"
"""Metadata of a stream whose client understands patches: ``1``."""
PATCH: Final = "type.googleapis.com/vestibule.xds.v1.Patch"
_TYPES: Final = frozenset({ROUTES})
"""Those that grow with the mesh, and whose versions are hashes of their bytes."""
_LEAST: Final = 2048
"""Bytes of a body that is worth it."""

Piece = tuple[int, int, bytes]
"""Where a part of the old body starts and ends, and what follows it in the new one."""


class PatchWriter:
    """Writes the responses of one stream."""

    def __init__(self) -> None:
        self._carried: dict[str, Resource] = {}

    def write(self, response: DeltaResponse) -> bytes:
        """``delta_response_bytes``, with patches where they are shorter."""
        if response.type_url not in _TYPES:
            return delta_response_bytes(response)
        written = delta_response_bytes(response, entry=self._entry)
        self._carried.update((each.name, each) for each in response.resources)
        for name in response.removed:
            self._carried.pop(name, None)
        return written

    def _entry(self, resource: Resource) -> bytes:
        base = self._carried.get(resource.name)
        found = None if base is None else _patch_of(base, resource)
        return entry_of(resource) if found is None else found


class PatchReader:
    """Reads the responses of one stream."""

    def __init__(self) -> None:
        self._carried: dict[str, Resource] = {}
        self._last: DeltaResponse | None = None

    def read(self, message: Any) -> DeltaResponse:
        """``delta_response_from``, without heartbeats; the last message may be read more than once.

        Raises: VST3112 where a patch does not fit, which only a new stream can mend.
        """
        if self._last is not None and message.nonce and message.nonce == self._last.nonce:
            return self._last
        response, _ = delta_response_from(message, whole=self._whole)
        if response.type_url in _TYPES:
            self._carried.update((each.name, each) for each in response.resources)
            for name in response.removed:
                self._carried.pop(name, None)
        self._last = response
        return response

    def _whole(self, type_url: str, entry: Any) -> Resource:
        """The resource of an entry."""
        if entry.resource.type_url != PATCH:
            return Resource(entry.resource.type_url, entry.name, entry.resource.value, entry.version)
        try:
            patch = patch_pb2.Patch.FromString(entry.resource.value)
        except DecodeError as error:
            raise PATCH_MISFIT.error(f"the patch of {entry.name!r} cannot be read") from error
        if (base := self._carried.get(entry.name)) is None or base.version != patch.base:
            raise PATCH_MISFIT.error(f"{entry.name!r} is to be made of what was not sent")
        starts, sizes = patch.places[::2], patch.places[1::2]
        if not len(starts) == len(sizes) == len(patch.literals):
            raise PATCH_MISFIT.error(f"the patch of {entry.name!r} has pieces without an end")
        body = put_together(base.body, zip(starts, map(add, starts, sizes), patch.literals, strict=True))
        if short_hash(body) != entry.version:
            raise PATCH_MISFIT.error(f"what {entry.name!r} is made of is not its version")
        return Resource(type_url, entry.name, body, entry.version)


def _patch_of(base: Resource, resource: Resource) -> bytes | None:
    """The entry that makes the resource of its base; None where it is not worth it.

    Most who had the one are sent the other, so that this is found out once and kept with the resource.
    """
    if (known := resource.patch) is None or known[0] != base.version:
        known = base.version, _written(base, resource)
        object.__setattr__(resource, "patch", known)
    return known[1]


def _written(base: Resource, resource: Resource) -> bytes | None:
    if len(resource.body) < _LEAST:
        return None
    pieces = differences(base.body, resource.body)
    places = [number for start, end, _ in pieces for number in (start, end - start)]
    literals = [literal for _, _, literal in pieces]
    patch = patch_pb2.Patch(base=base.version, places=places, literals=literals).SerializeToString()
    if len(patch) > len(resource.body) // 2:
        return None
    return entry_of(Resource(PATCH, resource.name, patch, resource.version))


def put_together(base: bytes, pieces: Iterable[Piece]) -> bytes:
    """The body that the pieces are of."""
    return b"".join(part for start, end, literal in pieces for part in (base[start:end], literal))


def differences(base: bytes, body: bytes) -> list[Piece]:
    """The pieces that make a message of another one, by their fields.

    Where both have as many, those of the same place are taken for versions of each other: of one that has changed, the
    beginning and the end are taken from there.  Otherwise those that are the same are looked for.
    """
    try:
        old, new = list(fields(base)), list(fields(body))
    except ValueError:
        return [(0, 0, body)]
    pieces = _Pieces()
    if len(old) == len(new):
        for one, other in zip(old, new, strict=True):
            _add_changed(pieces, base, one, body[other.start : other.end])
    else:
        places = {base[each.start : each.end]: each.start for each in old}
        for each in new:
            _add_found(pieces, places, body[each.start : each.end])
    return pieces.found


def _add_found(pieces: _Pieces, places: Mapping[bytes, int], written: bytes) -> None:
    """A field that may be somewhere in the base."""
    if (start := places.get(written)) is None:
        pieces.say(written)
    else:
        pieces.take(start, start + len(written))


def _add_changed(pieces: _Pieces, base: bytes, place: Field, written: bytes) -> None:
    """A field that is another version of the one in this place, or the same."""
    before = base[place.start : place.end]
    if before == written:
        pieces.take(place.start, place.end)
        return
    same, ending = _in_common(before, written)
    pieces.take(place.start, place.start + same)
    pieces.say(written[same : len(written) - ending])
    pieces.take(place.end - ending, place.end)


@lru_cache(maxsize=2048)
def _in_common(one: bytes, other: bytes) -> tuple[int, int]:
    """How many bytes at the beginning and at the end are the same.  Many have the same hosts."""
    same = _same(one, other)
    return same, _same(one[same:][::-1], other[same:][::-1])


def _same(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same, found as the lowest bit that differs."""
    size = min(len(one), len(other))
    differing = int.from_bytes(one[:size], "little") ^ int.from_bytes(other[:size], "little")
    return ((differing & -differing).bit_length() - 1) // 8 if differing else size


class _Pieces:
    """Puts what follows one another into one piece."""

    def __init__(self) -> None:
        self.found: list[Piece] = []

    def take(self, start: int, end: int) -> None:
        """This part of the base comes next."""
        if self.found:
            begun, ended, literal = self.found[-1]
            if ended == start and not literal:
                self.found[-1] = begun, end, literal
                return
        if start < end:
            self.found.append((start, end, b""))

    def say(self, written: bytes) -> None:
        """These bytes come next."""
        begun, ended, literal = self.found.pop() if self.found else (0, 0, b"")
        self.found.append((begun, ended, literal + written))
