"""The seal of hardware: the root key can be read with a PKCS#11 token only, and without anybody being there."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.keys.codes import NO_SUCH_KEY, TOKEN_KEY_UNUSABLE
from vestibule.keys.token_ciphers import TokenCipher
from vestibule.secrets.seals.codes import NO_SHARES, SEAL_REFUSED, SEAL_UNAVAILABLE
from vestibule.secrets.seals.ports import Document, Plan, Wrapped
from vestibule.secrets.seals.wrapping import unwrapped, wrapped

_KEY_BYTES: Final = 32


class Pkcs11Seal:
    """``secrets.seals.ports.Seal``: the root key under a random key, and that one under a key of the token.

    The token's key never leaves it.  Whether what the token gives back is right, the root key's own seal tells.
    """

    kind = "pkcs11"
    automatic = True
    has_shares = False

    def __init__(self, cipher: TokenCipher) -> None:
        self._cipher = cipher

    async def wrap(self, root_key: bytes, plan: Plan) -> Wrapped:
        """Wrap a root key."""
        key = secrets.token_bytes(_KEY_BYTES)
        try:
            how, encrypted = await self._cipher.encrypt(key)
        except VestibuleError as error:
            raise SEAL_UNAVAILABLE.error(error.message, advice=error.advice) from error
        document = {
            "kind": self.kind,
            "version": 1,
            "how": how,
            "key": base64.b64encode(encrypted).decode(),
        }
        return Wrapped(document=wrapped(document, root_key, key))

    async def unwrap(self, document: Document, shares: Sequence[bytes] = ()) -> bytes:
        """The root key."""
        try:
            encrypted = base64.b64decode(document["key"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise SEAL_REFUSED.error("the seal in the database is malformed") from None
        try:
            key = await self._cipher.decrypt(str(document.get("how")), encrypted)
        except VestibuleError as error:
            refused = SEAL_REFUSED if error.code in (TOKEN_KEY_UNUSABLE, NO_SUCH_KEY) else SEAL_UNAVAILABLE
            raise refused.error(error.message, advice=error.advice) from error
        if len(key) != _KEY_BYTES:
            raise SEAL_REFUSED.error("the token's key is not the one that this seal was made with")
        return unwrapped(document, key)

    def plan(self, document: Document) -> Plan | None:
        """There are no shares."""
        return None

    def number(self, document: Document, share: bytes) -> int:
        """Raises: VST5019."""
        raise NO_SHARES.error("the seal is a token: it has no shares")
