"""The keys that sign tokens: which there are, which one signs, and what comes next.

======== ============================================================= =====================================
state    meaning                                                       it goes on
======== ============================================================= =====================================
next     published, so that every verifier has it; signs nothing yet   when the current one's time is over
current  signs                                                         after its life, or in an emergency
former   published, as long as a token that it signed may live         then it is forgotten
======== ============================================================= =====================================

There is a next one from the start: in an emergency verifiers know already what they will see.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from vestibule.pki.jwk import encode_base64url, jwk_parameters
from vestibule.pki.keys import generate_key, key_from_pkcs8, key_to_pkcs8

ALGORITHM: Final = "ES256"


class KeyState(Enum):
    """What a key is there for."""

    NEXT = "next"
    CURRENT = "current"
    FORMER = "former"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimes:
    """When keys change.

    A key signs for ``life``; it is published for ``publication`` at least before that, so that verifiers that cache
    the key set have it; and for ``retention`` after it: the longest life of a token, what clocks may differ by, and
    as long as a server may go on signing without having seen the database.
    """

    life: timedelta = timedelta(hours=24)
    publication: timedelta = timedelta(minutes=15)
    retention: timedelta = timedelta(minutes=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One key.  ``private`` is PKCS #8, a secret; ``until`` is when it is planned to sign no longer."""

    key_id: str
    private: bytes = field(repr=False)
    public: Mapping[str, Any] = field(repr=False)
    published: datetime
    begins: datetime | None = None
    until: datetime | None = None
    ended: datetime | None = None

    @property
    def state(self) -> KeyState:
        if self.ended is not None:
            return KeyState.FORMER
        return KeyState.NEXT if self.begins is None else KeyState.CURRENT

    @property
    def jwk(self) -> dict[str, Any]:
        """As it is published (RFC 7517)."""
        return {**self.public, "kid": self.key_id, "use": "sig", "alg": ALGORITHM}


Ring: TypeAlias = tuple[SigningKey, ...]
Make: TypeAlias = Callable[[datetime], SigningKey]


def thumbprint(public: EllipticCurvePublicKey) -> str:
    """What a key is called: RFC 7638."""
    said = json.dumps(jwk_parameters(public), separators=(",", ":"), sort_keys=True)
    return encode_base64url(sha256(said.encode()).digest())


def new_key(now: datetime) -> SigningKey:
    """A key that is published from now on."""
    key = generate_key()
    public = key.public_key()
    return SigningKey(
        key_id=thumbprint(public), private=key_to_pkcs8(key), public=jwk_parameters(public), published=now
    )


def found(ring: Iterable[SigningKey], state: KeyState) -> SigningKey | None:
    """The key in this state; of former ones, any."""
    return next((each for each in ring if each.state is state), None)


def planned(ring: Ring, now: datetime, times: KeyTimes, make: Make = new_key) -> Ring:
    """The keys as they should be now.

    1. What nobody needs any more is forgotten.
    2. Without a key that signs, the next one does, whether or not it was published for long.
    3. When the current key's time is over, and the next one's publication, they change places.
    4. There is a next one.
    """
    kept = [each for each in ring if each.ended is None or now < each.ended + times.retention]  # 1
    current, following = found(kept, KeyState.CURRENT), found(kept, KeyState.NEXT)
    formers = [each for each in kept if each.state is KeyState.FORMER]
    if current is None:  # 2
        current, following = _signing(following or make(now), now, times), None
    elif (
        following is not None and _over(current, now) and now >= following.published + times.publication
    ):  # 3
        formers.append(replace(current, ended=now))
        current, following = _signing(following, now, times), None
    return (current, following or make(now), *formers)  # 4


def hurried(ring: Ring, now: datetime, times: KeyTimes) -> Ring:
    """The current key signs no longer than its successor needs to become known."""
    following = found(ring, KeyState.NEXT)
    earliest = now if following is None else max(now, following.published + times.publication)
    return tuple(
        replace(each, until=min(each.until or earliest, earliest)) if each.state is KeyState.CURRENT else each
        for each in ring
    )


def without(ring: Ring, key_id: str) -> Ring:
    """Without a key, at once; ``planned`` puts another in its place."""
    return tuple(each for each in ring if each.key_id != key_id)


def key_set(ring: Ring) -> str:
    """What verifiers are given: a JWK set (RFC 7517), in JSON."""
    return json.dumps({"keys": [each.jwk for each in ring]}, separators=(",", ":"))


def encoded(ring: Ring) -> bytes:
    """As it is kept.  A secret."""
    return json.dumps([_told(each) for each in ring]).encode()


def decoded(value: bytes) -> Ring:
    """Read what ``encoded`` wrote."""
    return tuple(_read(each) for each in json.loads(value))


def _signing(key: SigningKey, now: datetime, times: KeyTimes) -> SigningKey:
    return replace(key, begins=now, until=now + times.life)


def _over(key: SigningKey, now: datetime) -> bool:
    return key.until is not None and now >= key.until


_TIMES: Final = ("published", "begins", "until", "ended")


def _told(key: SigningKey) -> dict[str, object]:
    times = {name: getattr(key, name) for name in _TIMES}
    said = {name: time.timestamp() for name, time in times.items() if time is not None}
    return {"private": b64encode(key.private).decode(), **said}


def _read(said: Mapping[str, Any]) -> SigningKey:
    private = b64decode(said["private"])
    public = key_from_pkcs8(private).public_key()
    times = {name: datetime.fromtimestamp(said[name], UTC) for name in _TIMES if name in said}
    return SigningKey(key_id=thumbprint(public), private=private, public=jwk_parameters(public), **times)
