"""A private key under a passphrase, in a standard form that other tools open: PKCS #8 with PBES2.

The key-derivation function is scrypt (RFC 7914) with N = 2^14, r = 8, p = 16: 16 MiB and about three times the work
that OWASP asks for with this much memory.  A larger N would be beyond what ``openssl pkcs8`` and ``openssl pkey``
agree to read (32 MiB), and a root has to open without us: the file is a PEM block like any other.  The cipher is
AES-256-CBC, the only usual one for PBES2; it does not authenticate, so whoever opens a key compares it with its
certificate.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from vestibule.pki.codes import UNSUPPORTED_KEY, WEAK_PASSPHRASE, WRONG_PASSPHRASE
from vestibule.pki.der import integer, octets, sequence
from vestibule.pki.keys import key_to_pkcs8
from vestibule.pki.pem import pem_block

COST: Final = 2**14
BLOCK_SIZE: Final = 8
PARALLELIZATION: Final = 16
MIN_PASSPHRASE: Final = 14
LABEL: Final = "ENCRYPTED PRIVATE KEY"

_KEY_BYTES: Final = 32
_SALT_BYTES: Final = 16
_PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC: Final = bytes.fromhex("060960864801650304012a")


def encrypt_key(key: EllipticCurvePrivateKey, passphrase: str) -> bytes:
    """The key as PEM, under the passphrase.  Raises: VST1034 for a passphrase under 14 characters."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise WEAK_PASSPHRASE.error(f"the passphrase has fewer than {MIN_PASSPHRASE} characters")
    salt, iv = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(16)
    derived = Scrypt(salt=salt, length=_KEY_BYTES, n=COST, r=BLOCK_SIZE, p=PARALLELIZATION)
    encryptor = Cipher(AES256(derived.derive(passphrase.encode())), CBC(iv)).encryptor()
    padder = PKCS7(AES256.block_size).padder()
    padded = padder.update(key_to_pkcs8(key)) + padder.finalize()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    # RFC 7914, section 7; RFC 8018, section 6.2 and appendix A.4; RFC 5958, section 3.
    numbers = b"".join(map(integer, (COST, BLOCK_SIZE, PARALLELIZATION, _KEY_BYTES)))
    kdf = sequence(_SCRYPT, sequence(octets(salt), numbers))
    scheme = sequence(_PBES2, sequence(kdf, sequence(_AES_256_CBC, octets(iv))))
    return pem_block(LABEL, sequence(scheme, octets(ciphertext)))


def decrypt_key(pem: bytes, passphrase: str) -> EllipticCurvePrivateKey:
    """Open what ``encrypt_key`` wrote.  Raises: VST1033, VST1003 (not an EC key)."""
    try:
        key = load_pem_private_key(pem, passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise WRONG_PASSPHRASE.error("the private key does not open with this passphrase") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UNSUPPORTED_KEY.error("the private key is not an EC key")
    return key
