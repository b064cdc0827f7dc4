"""Reading tokens of ours: signed by one of our keys, in time, and not revoked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.pki.token_texts import ACCESS_TOKEN
from vestibule.tokens.codes import (
    HEADER_REFUSED,
    ISSUER_UNKNOWN,
    KEY_UNKNOWN,
    NO_SIGNING_KEY,
    REVOKED,
    SIGNATURE_WRONG,
)
from vestibule.tokens.jwts import Jwt, check_times, taken_apart, text_of
from vestibule.tokens.keys import SigningKeys
from vestibule.tokens.revoked import RevokedList
from vestibule.tokens.signatures import is_signature

ALGORITHM: Final = "ES256"
_LOOK_AGAIN: Final = timedelta(seconds=1)


class Reader:
    """Believes what our own keys have signed."""

    def __init__(self, issuer: str, keys: SigningKeys, revoked: RevokedList, clock: Clock) -> None:
        self._issuer = issuer
        self._keys = keys
        self._revoked = revoked
        self._clock = clock
        self._looked: datetime | None = None

    async def read(self, text: str) -> Mapping[str, Any]:
        """The claims of an access token of ours, if it holds.

        1. It has the form: at+jwt, ES256, a header that asks for nothing.
        2. Its key is one that we have, by its ID; and it is the key that signed it.
        3. It is of us: another installation's keys cannot be ours, but the issuer says so, too.
        4. It has begun, and has not ended.
        5. It is not revoked: not itself, nor its client or one of its actors, its subject, its key.

        Raises: VST6000, VST6001 (step 1), VST6002, VST6003 (2), VST6004 (3), VST6005, VST6006 (4), VST6007 (5);
        VST6030 where no key is known at all.
        """
        jwt = taken_apart(text, algorithms=(ALGORITHM,), types=(ACCESS_TOKEN,))  # 1
        key_id = _key_id(jwt)
        if not is_signature(await self._key(key_id), ALGORITHM, jwt.signature, jwt.signed):  # 2
            raise SIGNATURE_WRONG.error("the token's signature is not one of the key that it names")
        claims = jwt.claims
        if claims.get("iss") != self._issuer:  # 3
            raise ISSUER_UNKNOWN.error("the token is of another issuer")
        check_times(claims, self._clock.now())  # 4
        for name in ("sub", "client_id", "jti", "txn"):
            text_of(claims, name, 2048)
        if self._revoked.covers(claims, key_id) is not None:  # 5
            raise REVOKED.error("the token was revoked")
        return claims

    async def _key(self, key_id: str) -> EllipticCurvePublicKey:
        """Another server may have made it a moment ago: then it is in the database.  Not asked for every stranger's."""
        if (key := self._keys.public(key_id)) is not None:
            return key
        now = self._clock.now()
        if self._looked is None or not self._looked <= now < self._looked + _LOOK_AGAIN:
            self._looked = now
            with suppress(VestibuleError):
                await self._keys.look()
        if (key := self._keys.public(key_id)) is not None:
            return key
        if not self._keys.now:
            raise NO_SIGNING_KEY.error("no key is known yet")
        raise KEY_UNKNOWN.error("the token was signed with a key that is not ours (any more)")


def _key_id(jwt: Jwt) -> str:
    if jwt.key_id is None:
        raise HEADER_REFUSED.error("the token does not name its key (kid)")
    return jwt.key_id
