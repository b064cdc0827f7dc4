"""Keys in a PKCS#11 token that encrypt a few bytes: what is under them can be read with the token only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vestibule.keys.codes import TOKEN_KEY_UNUSABLE
from vestibule.keys.memory import no_such_key
from vestibule.keys.token import Token
from vestibule.keys.token_keys import objects, private_class, public_class

if TYPE_CHECKING:
    import pkcs11

AES: Final = "aes-256-cbc"
RSA: Final = "rsa-oaep-sha1"
BLOCK: Final = 16


class TokenCipher:
    """Encrypts with the token's key of one label: AES, or RSA where somebody made such a pair.

    It keeps secret, and does not authenticate: what goes in must be random and of whole blocks (a key), and who gets
    it back must notice a wrong one.  AES in CBC mode without padding, and OAEP as every token has it, are what all
    tokens can do, and with neither of them there is anything that an answer could give away about a random key.
    """

    def __init__(self, token: Token, label: str) -> None:
        self._token = token
        self._label = label

    async def encrypt(self, key: bytes) -> tuple[str, bytes]:
        """How, and what came of it; an AES key is made in the token where there is none of this label.

        Raises: VST1106 to VST1109.
        """
        return await self._token.ask(lambda session: self._encrypted(session, key))

    async def decrypt(self, how: str, encrypted: bytes) -> bytes:
        """What ``encrypt`` was given, if nobody changed anything.  Raises: VST1101, VST1106 to VST1109."""
        return await self._token.ask(lambda session: self._decrypted(session, how, encrypted))

    def _encrypted(self, session: pkcs11.Session, key: bytes) -> tuple[str, bytes]:
        import pkcs11

        if pair := self._found(session, public_class()):
            return RSA, bytes(pair.encrypt(key, mechanism=pkcs11.Mechanism.RSA_PKCS_OAEP))
        iv = bytes(session.generate_random(8 * BLOCK))
        secret = self._found(session, pkcs11.ObjectClass.SECRET_KEY) or self._generated(session)
        return AES, iv + bytes(secret.encrypt(key, mechanism=pkcs11.Mechanism.AES_CBC, mechanism_param=iv))

    def _decrypted(self, session: pkcs11.Session, how: str, encrypted: bytes) -> bytes:
        import pkcs11

        kind = {AES: pkcs11.ObjectClass.SECRET_KEY, RSA: private_class()}.get(how)
        if kind is None or len(encrypted) % BLOCK or len(encrypted) < 2 * BLOCK:
            raise TOKEN_KEY_UNUSABLE.error("what was wrapped by the token is malformed")
        if (key := self._found(session, kind)) is None:
            raise no_such_key(self._label)  # believed only after the token was asked anew
        if how == RSA:
            return bytes(key.decrypt(encrypted, mechanism=pkcs11.Mechanism.RSA_PKCS_OAEP))
        iv, rest = encrypted[:BLOCK], encrypted[BLOCK:]
        return bytes(key.decrypt(rest, mechanism=pkcs11.Mechanism.AES_CBC, mechanism_param=iv))

    def _found(self, session: pkcs11.Session, kind: pkcs11.ObjectClass) -> Any:
        found = objects(session, kind, self._label)
        if len(found) > 1:
            raise TOKEN_KEY_UNUSABLE.error(f"the token has {len(found)} keys named {self._label!r}")
        return found[0] if found else None

    def _generated(self, session: pkcs11.Session) -> Any:
        import pkcs11

        return session.generate_key(
            pkcs11.KeyType.AES,
            256,
            store=True,
            label=self._label,
            id=self._label.encode(),
            capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
            template={
                pkcs11.Attribute.PRIVATE: True,
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )
