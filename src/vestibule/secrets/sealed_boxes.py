"""A few bytes for whoever has one X25519 key: an ephemeral key, HKDF-SHA256 over both public keys, AES-256-GCM."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vestibule.errors import VestibuleError
from vestibule.keys.codes import UNSEALABLE
from vestibule.keys.sealing import Sealer

PUBLIC_BYTES: Final = 32


def boxed(plaintext: bytes, recipient: bytes, *, context: bytes) -> bytes:
    """For the holder of the private half of ``recipient`` (32 bytes), and for one purpose.  Raises: ValueError."""
    mine = X25519PrivateKey.generate()
    public = mine.public_key().public_bytes_raw()
    shared = mine.exchange(X25519PublicKey.from_public_bytes(recipient))
    return public + _sealer(shared, public, recipient).seal(plaintext, context=context)


def unboxed(box: bytes, private: X25519PrivateKey, *, context: bytes) -> bytes:
    """What ``boxed`` was given.  Raises: VST1102."""
    public, sealed = box[:PUBLIC_BYTES], box[PUBLIC_BYTES:]
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise _unreadable() from None
    return _sealer(shared, public, private.public_key().public_bytes_raw()).unseal(sealed, context=context)


def _sealer(shared: bytes, public: bytes, recipient: bytes) -> Sealer:
    info = b"vestibule box " + public + recipient
    return Sealer(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared))


def _unreadable() -> VestibuleError:
    return UNSEALABLE.error("the box is malformed")
