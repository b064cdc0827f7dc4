"""Keys as objects in a PKCS#11 token: finding them, reading their public halves, signing with them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from vestibule.keys.codes import TOKEN_KEY_UNUSABLE
from vestibule.keys.memory import no_such_key

if TYPE_CHECKING:
    import pkcs11

P256: Final = bytes.fromhex("06082a8648ce3d030107")
"""DER of the curve's object identifier, as CKA_EC_PARAMS has it."""
_POINT: Final = b"\x04\x41"  # DER of an octet string of 65 bytes, around an uncompressed point
_COORDINATE_BYTES: Final = 32


class TokenKey(EllipticCurvePrivateKey):
    """A private key that is elsewhere, for whatever signs with ``cryptography``: builders of certificates, say."""

    def __init__(self, key: pkcs11.PrivateKey, public: EllipticCurvePublicKey) -> None:
        self._key = key
        self._public = public

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        """ECDSA with SHA-256 over ``data``, in DER.  Raises: VST1109 when it does not verify."""
        if not isinstance(signature_algorithm, ECDSA) or not isinstance(
            signature_algorithm.algorithm, SHA256
        ):
            raise TOKEN_KEY_UNUSABLE.error("keys in a token sign with ECDSA and SHA-256 only")
        digest = Hash(SHA256())
        digest.update(data)
        hashed = digest.finalize()
        signature = _signature(self._key, hashed)
        # A faulty token, or a public half that is not this key's, would else be noticed by every client but us.
        try:
            self._public.verify(signature, hashed, ECDSA(Prehashed(SHA256())))
        except InvalidSignature:
            raise TOKEN_KEY_UNUSABLE.error("what the token signed does not verify") from None
        return signature

    def public_key(self) -> EllipticCurvePublicKey:
        """The public half."""
        return self._public

    @property
    def curve(self) -> EllipticCurve:
        """P-256."""
        return SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return SECP256R1().key_size

    def exchange(self, algorithm: Any, peer_public_key: Any) -> bytes:
        """Not what this key is for."""
        raise NotImplementedError("keys in a token only sign")

    def private_numbers(self) -> Any:
        """They stay in the token."""
        raise NotImplementedError("a key in a token does not leave it")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002
        """They stay in the token."""
        raise NotImplementedError("a key in a token does not leave it")

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenKey:
        return copy.copy(self)


def _signature(key: Any, digest: bytes) -> bytes:
    import pkcs11

    raw = key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)  # of a digest: not every token hashes
    if len(raw) != 2 * _COORDINATE_BYTES:
        raise TOKEN_KEY_UNUSABLE.error("the token's signature is not one of P-256")
    first, second = raw[:_COORDINATE_BYTES], raw[_COORDINATE_BYTES:]
    return encode_dss_signature(int.from_bytes(first, "big"), int.from_bytes(second, "big"))


def private_half(session: pkcs11.Session, key_id: str, label: str) -> pkcs11.PrivateKey:
    """A private key, by its label.  Raises: VST1101, VST1109 (several)."""
    found = objects(session, private_class(), label)
    if not found:
        raise no_such_key(key_id)
    key: pkcs11.PrivateKey = _only(found, label)
    return key


def public_half(session: pkcs11.Session, key_id: str, label: str) -> EllipticCurvePublicKey:
    """Its public half.  Raises: VST1101, VST1109."""
    private_half(session, key_id, label)  # a public half alone is no key
    return point(key_id, _only(objects(session, public_class(), label), label))


def private_class() -> pkcs11.ObjectClass:
    """The class of private keys."""
    import pkcs11

    return pkcs11.ObjectClass.PRIVATE_KEY


def public_class() -> pkcs11.ObjectClass:
    """The class of public keys."""
    import pkcs11

    return pkcs11.ObjectClass.PUBLIC_KEY


def objects(session: pkcs11.Session, kind: pkcs11.ObjectClass, label: str | None = None) -> list[Any]:
    """All objects of a class; with a label, those that have it."""
    import pkcs11

    session.generate_random(
        8
    )  # a search in a dead session fails too, but not without a trace on standard error
    wanted = {pkcs11.Attribute.CLASS: kind} | ({} if label is None else {pkcs11.Attribute.LABEL: label})
    return list(session.get_objects(wanted))


def _only(found: list[Any], label: str) -> Any:
    if len(found) != 1:
        raise TOKEN_KEY_UNUSABLE.error(
            f"the token has {len(found)} objects named {label!r} where one is needed"
        )
    return found[0]


def point(key_id: str, public: Any) -> EllipticCurvePublicKey:
    """A public key as we use it.  Raises: VST1109."""
    import pkcs11

    if public[pkcs11.Attribute.EC_PARAMS] != P256:
        raise TOKEN_KEY_UNUSABLE.error(f"the key {key_id} is not on P-256")
    # PKCS#11 wraps the point into an octet string (v2.20 on); some tokens leave that out.
    point = bytes(public[pkcs11.Attribute.EC_POINT]).removeprefix(_POINT)
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError as error:
        raise TOKEN_KEY_UNUSABLE.error(f"the public half of {key_id} is not a point on P-256") from error
