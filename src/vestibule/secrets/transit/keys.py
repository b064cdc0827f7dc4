"""A transit key and its versions, as they are kept."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from vestibule.secrets.transit.codes import NOT_DONE_WITH_KEY
from vestibule.secrets.transit.kinds import KeyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One generation of a key.

    ``material`` is a secret: random bytes, an Ed25519 seed, or a private key in PKCS #8 (DER); ``mac`` is the version's
    own key for HMACs; ``public`` is the public half in PEM (Ed25519: 32 bytes in base64), empty where there is none.
    """

    number: int
    created: datetime
    material: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    public: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitKey:
    """A named key.  Versions below ``least_decrypting`` open and verify nothing; ``least_encrypting`` 0 is the newest.

    ``rotates_every`` of None is never.  ``derived`` keys have a key of their own for each context.
    """

    name: str
    kind: KeyKind
    versions: tuple[KeyVersion, ...]
    derived: bool = False
    deletable: bool = False
    least_decrypting: int = 1
    least_encrypting: int = 0
    rotates_every: timedelta | None = None

    @property
    def latest(self) -> KeyVersion:
        """The newest version, which encrypts and signs."""
        return self.versions[-1]

    @property
    def least_available(self) -> int:
        """The oldest version that is still kept."""
        return self.versions[0].number

    def version(self, number: int) -> KeyVersion:
        """The version of this number, if it is still in use for opening and verifying.  Raises: VST5501."""
        if number < self.least_decrypting:
            raise NOT_DONE_WITH_KEY.error(
                f"version {number} of {self.name} is out of use: min_decryption_version is {self.least_decrypting}"
            )
        return self._found(number)

    def making(self, number: int | None) -> KeyVersion:
        """The version that encrypts or signs: the newest, or the one that was asked for.  Raises: VST5501."""
        if number is None or number == 0:
            return self.latest
        least = self.least_encrypting or self.least_decrypting
        if number < least:
            raise NOT_DONE_WITH_KEY.error(
                f"version {number} of {self.name} makes nothing new: the least is {least}"
            )
        return self._found(number)

    def with_next(self, version: KeyVersion) -> TransitKey:
        """The same key, one version further."""
        return replace(self, versions=(*self.versions, version))

    def _found(self, number: int) -> KeyVersion:
        index = number - self.least_available
        if not 0 <= index < len(self.versions):
            raise NOT_DONE_WITH_KEY.error(f"{self.name} has no version {number}")
        return self.versions[index]


def encoded(key: TransitKey) -> bytes:
    """The form in which a key is kept; a secret."""
    document = {
        "kind": key.kind.value,
        "derived": key.derived,
        "deletable": key.deletable,
        "least_decrypting": key.least_decrypting,
        "least_encrypting": key.least_encrypting,
        "rotates_every": key.rotates_every.total_seconds() if key.rotates_every else None,
        "versions": [_version(each) for each in key.versions],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decoded(name: str, kept: bytes) -> TransitKey:
    """The key from the form in which it is kept."""
    document = json.loads(kept)
    every = document["rotates_every"]
    return TransitKey(
        name=name,
        kind=KeyKind(document["kind"]),
        derived=document["derived"],
        deletable=document["deletable"],
        least_decrypting=document["least_decrypting"],
        least_encrypting=document["least_encrypting"],
        rotates_every=None if every is None else timedelta(seconds=every),
        versions=tuple(_read(each) for each in document["versions"]),
    )


def _version(version: KeyVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "created": version.created.isoformat(),
        "material": b64encode(version.material).decode(),
        "mac": b64encode(version.mac).decode(),
        "public": version.public,
    }


def _read(document: dict[str, Any]) -> KeyVersion:
    return KeyVersion(
        number=document["number"],
        created=datetime.fromisoformat(document["created"]).astimezone(UTC),
        material=b64decode(document["material"]),
        mac=b64decode(document["mac"]),
        public=document["public"],
    )
