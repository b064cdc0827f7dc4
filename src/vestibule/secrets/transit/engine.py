"""The keys: making, finding, rotating and forgetting them."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.transit.ciphers import forget_private_keys
from vestibule.secrets.transit.codes import (
    KEY_EXISTS,
    KEY_KEPT,
    NOT_DONE_WITH_KEY,
    UNKNOWN_KEY,
    UNREADABLE_INPUT,
)
from vestibule.secrets.transit.keys import TransitKey, decoded, encoded
from vestibule.secrets.transit.kinds import KeyKind
from vestibule.secrets.transit.making import new_version
from vestibule.store.barrier import Barrier, Put, Remove
from vestibule.store.codes import CONFLICT

SPACE: Final = "transit"
SHORTEST_ROTATION: Final = timedelta(hours=1)
MOST_VERSIONS: Final = 10_000
_REMEMBERED: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?", re.ASCII)
_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """What of a key can be changed; None leaves it as it is.  ``rotates_every`` of zero ends rotation."""

    least_decrypting: int | None = None
    least_encrypting: int | None = None
    deletable: bool | None = None
    rotates_every: timedelta | None = None


class Transit:
    """Keys in the barrier.  Every method raises VST5000 while that is sealed."""

    def __init__(self, barrier: Barrier, clock: Clock) -> None:
        self._barrier = barrier
        self._clock = clock
        self._read: OrderedDict[str, tuple[int, TransitKey]] = OrderedDict()

    def forget(self) -> None:
        """Forget every key that was read: for the moment of sealing."""
        self._read.clear()
        forget_private_keys()

    async def make(
        self, name: str, kind: KeyKind, *, derived: bool = False, rotates_every: timedelta | None = None
    ) -> TransitKey:
        """A new key, or the one that is there already if it is of the same kind.

        Raises: VST5501 (a kind that cannot be derived), VST5502 (name, period), VST5505.
        """
        if not _NAME.fullmatch(name):
            raise UNREADABLE_INPUT.error("a key's name is up to 128 letters, digits, and _ . - between them")
        if derived and not kind.derives:
            raise NOT_DONE_WITH_KEY.error(f"keys of type {kind.value} are not derived")
        if (there := await self.find(name)) is None:
            version = await asyncio.to_thread(new_version, kind, 1, self._clock.now())
            key = TransitKey(
                name=name,
                kind=kind,
                versions=(version,),
                derived=derived,
                rotates_every=_period(rotates_every),
            )
            try:
                await self._barrier.apply([Put(space=SPACE, key=name, value=encoded(key), expected=0)])
            except VestibuleError as error:
                if error.code is not CONFLICT:
                    raise
                there = await self.key(name)
            else:
                return key
        if (there.kind, there.derived) != (kind, derived):
            raise KEY_EXISTS.error(f"{name} is there already, of type {there.kind.value}")
        return there

    async def find(self, name: str) -> TransitKey | None:
        """The key of this name."""
        found = await self._found(name)
        return None if found is None else found[1]

    async def key(self, name: str) -> TransitKey:
        """The key of this name, to be used.  Raises: VST5500."""
        found = await self._found(name)
        if found is None:
            raise UNKNOWN_KEY.error(f"there is no transit key {name}")
        key = found[1]
        if key.rotates_every is not None and self._clock.now() - key.latest.created >= key.rotates_every:
            return await self._rotated_once(name, found)
        return key

    async def names(self, *, after: str = "", limit: int = 1000) -> list[str]:
        """The names of keys, in order."""
        return await self._barrier.keys(SPACE, after=after, limit=limit)

    async def rotate(self, name: str) -> TransitKey:
        """A new version, which encrypts and signs from now on.  Raises: VST5500, VST5501 (too many versions)."""
        for _ in range(_ATTEMPTS):
            found = await self._there(name)
            try:
                return await self._rotated(name, found)
            except VestibuleError as error:
                if error.code is not CONFLICT:
                    raise
        raise CONFLICT.error(f"{name} is being changed by others")

    async def configure(self, name: str, settings: KeySettings) -> TransitKey:
        """Change settings.  Raises: VST5500, VST5501 (versions that are not there), VST5001."""
        revision, key = await self._there(name)
        changed = _configured(key, settings)
        await self._keep(changed, revision)
        return changed

    async def trim(self, name: str, least: int) -> TransitKey:
        """Forget versions below ``least`` for ever.  Raises: VST5500, VST5501 if one of them is in use."""
        revision, key = await self._there(name)
        in_use = min(key.least_decrypting, key.least_encrypting or key.least_decrypting)
        if not key.least_available <= least <= in_use:
            raise NOT_DONE_WITH_KEY.error(
                f"min_available_version must be between {key.least_available} and {in_use}, the least in use"
            )
        changed = replace(key, versions=tuple(each for each in key.versions if each.number >= least))
        await self._keep(changed, revision)
        return changed

    async def delete(self, name: str) -> None:
        """Forget a key, and with it all that it has encrypted.  Raises: VST5500, VST5504, VST5001."""
        revision, key = await self._there(name)
        if not key.deletable:
            raise KEY_KEPT.error(f"{name} is not deleted: deletion_allowed is false")
        await self._barrier.apply([Remove(space=SPACE, key=name, expected=revision)])

    async def _rotated_once(self, name: str, found: tuple[int, TransitKey]) -> TransitKey:
        """Rotate a key that is due.  Whoever comes second takes what the first has made."""
        try:
            return await self._rotated(name, found)
        except VestibuleError as error:
            if error.code is not CONFLICT:
                raise
        return (await self._there(name))[1]

    async def _rotated(self, name: str, found: tuple[int, TransitKey]) -> TransitKey:
        revision, key = found
        if len(key.versions) >= MOST_VERSIONS:
            raise NOT_DONE_WITH_KEY.error(f"{name} has {MOST_VERSIONS} versions: trim it first")
        number = key.latest.number + 1
        version = await asyncio.to_thread(new_version, key.kind, number, self._clock.now())
        changed = key.with_next(version)
        await self._keep(changed, revision)
        return changed

    async def _keep(self, key: TransitKey, revision: int) -> None:
        await self._barrier.apply([Put(space=SPACE, key=key.name, value=encoded(key), expected=revision)])

    async def _there(self, name: str) -> tuple[int, TransitKey]:
        if (found := await self._found(name)) is None:
            raise UNKNOWN_KEY.error(f"there is no transit key {name}")
        return found

    async def _found(self, name: str) -> tuple[int, TransitKey] | None:
        """Revision and key.  What was decoded is kept for as long as the barrier has the same revision."""
        item = await self._barrier.get(SPACE, name)
        if item is None:
            return None
        known = self._read.get(name)
        if known is None or known[0] != item.revision:
            known = item.revision, decoded(name, item.value)
            self._read[name] = known
        self._read.move_to_end(name)
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
        return known


def _period(every: timedelta | None) -> timedelta | None:
    if not every:
        return None
    if every < SHORTEST_ROTATION:
        raise UNREADABLE_INPUT.error("auto_rotate_period is 0 (never) or at least one hour")
    return every


def _configured(key: TransitKey, settings: KeySettings) -> TransitKey:
    if (least := settings.least_decrypting) is not None:
        least = max(least, 1)
        if not key.least_available <= least <= key.latest.number:
            raise NOT_DONE_WITH_KEY.error(f"min_decryption_version {least} is no version of {key.name}")
        key = replace(key, least_decrypting=least)
    if (least := settings.least_encrypting) is not None:
        if least and not key.least_decrypting <= least <= key.latest.number:
            raise NOT_DONE_WITH_KEY.error(
                f"min_encryption_version {least} is neither 0 nor between min_decryption_version and the newest"
            )
        key = replace(key, least_encrypting=least)
    if settings.deletable is not None:
        key = replace(key, deletable=settings.deletable)
    if settings.rotates_every is not None:
        key = replace(key, rotates_every=_period(settings.rotates_every))
    return key
