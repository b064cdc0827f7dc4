"""Keys in a PKCS#11 token: a hardware security module, a smart card, SoftHSM.

The private halves are made in the token, marked sensitive and not extractable, and never leave it: we send it 32
bytes of digest and get a signature back.  A key's label is ``NAMESPACE/ID``: what several servers keep in one token
stays apart, and one never removes what another made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.x509 import (
    CertificateBuilder,
    CertificateRevocationListBuilder,
    CertificateSigningRequestBuilder,
)

from vestibule.errors import VestibuleError
from vestibule.keys.codes import MALFORMED_KEY_ID
from vestibule.keys.memory import check_key_id, no_such_key, sign, sign_data
from vestibule.keys.secrets import Secret
from vestibule.keys.token import Token
from vestibule.keys.token_keys import (
    P256,
    TokenKey,
    objects,
    point,
    private_class,
    private_half,
    public_class,
    public_half,
)

if TYPE_CHECKING:
    import pkcs11

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
T = TypeVar("T")


class Pkcs11KeyManager:
    """A ``KeyManager`` whose private keys stay in a token."""

    def __init__(self, module: Path, token: str, pin: Secret, *, namespace: str) -> None:
        """``module`` is the vendor's shared library, ``token`` the token's label.

        Nothing is loaded or opened before the first use.  Raises: VST1100 for a malformed ``namespace``.
        """
        if not _NAMESPACE.fullmatch(namespace):
            raise MALFORMED_KEY_ID.error(f"{namespace[:80]!r} can not be the namespace of keys in a token")
        self._prefix = f"{namespace}/"
        self._keys: dict[str, TokenKey] = {}
        """Handles are good for one session; a signature then costs one call to the token and no search."""
        self._token = Token(module, token, pin, forget=self._keys.clear)
        self._used: set[str] = set()

    async def generate(self, key_id: str) -> EllipticCurvePublicKey:
        """Make a key in the token; one that had this ID is replaced."""
        label = self._label(key_id)
        return await self._token.ask(lambda session: self._generate(session, key_id, label))

    async def public_key(self, key_id: str) -> EllipticCurvePublicKey:
        """The public half.  Read from the token every time: the token has the last word on what it holds."""
        label = self._label(key_id)
        return await self._token.ask(lambda session: public_half(session, key_id, label))

    async def sign_certificate(self, key_id: str, builder: CertificateBuilder) -> bytes:
        """Sign what a profile built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign_crl(self, key_id: str, builder: CertificateRevocationListBuilder) -> bytes:
        """Sign what ``pki.crls`` built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign_csr(self, key_id: str, builder: CertificateSigningRequestBuilder) -> bytes:
        """Sign what ``pki.csr`` built."""
        return await self._with_key(key_id, lambda key: sign(key, builder))

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """Sign ``data``."""
        return await self._with_key(key_id, lambda key: sign_data(key, data))

    async def delete(self, key_id: str) -> None:
        """Destroy a key in the token, both halves."""
        label = self._label(key_id)
        await self._token.ask(lambda session: self._delete(session, key_id, label))

    async def key_ids(self) -> frozenset[str]:
        """The IDs of all keys of this namespace."""

        def listed(session: pkcs11.Session) -> frozenset[str]:
            found = frozenset(self._listed(session))
            if missing := self._used - found:
                raise no_such_key(
                    min(missing)
                )  # we used it: the module is asked again before we believe that
            return found

        try:
            return await self._token.ask(listed)
        except VestibuleError as error:
            if error.code.name != "no-such-key":
                raise
        self._used.clear()
        return await self._token.ask(lambda session: frozenset(self._listed(session)))

    async def _with_key(self, key_id: str, use: Callable[[EllipticCurvePrivateKey], T]) -> T:
        label = self._label(key_id)

        def signed(session: pkcs11.Session) -> T:
            if (key := self._keys.get(key_id)) is None:
                public = public_half(session, key_id, label)
                key = self._keys[key_id] = TokenKey(private_half(session, key_id, label), public)
                self._used.add(key_id)
            return use(key)

        return await self._token.ask(signed)

    def _label(self, key_id: str) -> str:
        return self._prefix + check_key_id(key_id)

    def _listed(self, session: pkcs11.Session) -> list[str]:
        labels = [str(found.label) for found in objects(session, private_class())]
        return [label.removeprefix(self._prefix) for label in labels if label.startswith(self._prefix)]

    def _generate(self, session: pkcs11.Session, key_id: str, label: str) -> EllipticCurvePublicKey:
        import pkcs11

        self._delete(session, key_id, label)
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: P256}, local=True
        )
        public, _ = parameters.generate_keypair(
            store=True,
            label=label,
            id=label.encode(),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={
                pkcs11.Attribute.PRIVATE: True,
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )
        self._used.add(key_id)
        return point(key_id, public)

    def _delete(self, session: pkcs11.Session, key_id: str, label: str) -> None:
        self._keys.pop(key_id, None)
        self._used.discard(key_id)
        for kind in (private_class(), public_class()):
            for found in objects(session, kind, label):
                found.destroy()
