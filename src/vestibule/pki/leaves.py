"""X509-SVIDs as bytes: the certificates of ``profiles.svid``, for a fraction of the work.

A server issues hundreds of SVIDs in a row that differ in five places.  What is the same in all of them is encoded
once; the rest is put between, and a key manager signs the bytes.  Nothing here decides what an SVID looks like: a
property test holds every one equal, byte by byte, to what the library's builder makes of ``profiles.svid``.

DER (X.690): a type, a length, a value; numbers big-endian in as few bytes as it takes, the first bit being the sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from vestibule.pki.codes import INVALID_REQUEST
from vestibule.pki.keys import PublicKey, public_key_der
from vestibule.pki.names import unique_dns_names
from vestibule.pki.profiles import (
    MAX_COMMON_NAME,
    Issuer,
    Lifetime,
    check_workload_id,
    key_identifier,
    serial_number,
)
from vestibule.spiffe import SpiffeId

_INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_UTF8_STRING: Final = 0x0C
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_KEY_IDENTIFIER: Final = 0x80  # AuthorityKeyIdentifier (RFC 5280, section 4.2.1.1): [0], primitive
_DNS_NAME: Final = 0x82  # GeneralName (section 4.2.1.6): [2] and [6], primitive
_URI: Final = 0x86
_EXTENSIONS: Final = 0xA3

_VERSION_3: Final = bytes.fromhex("a003 020102")
_ECDSA_SHA256: Final = bytes.fromhex("300a 06082a8648ce3d040302")
"""What every key manager signs with (``KeyManager.sign``): RFC 5758, section 3.2."""

_ORGANIZATION: Final = bytes.fromhex("3112 3010 060355040a") + b"\x0c\x09Vestibule"
_COMMON_NAME: Final = bytes.fromhex("0603550403")
_SUBJECT_KEY_IDENTIFIER: Final = bytes.fromhex("0603551d0e")
_AUTHORITY_KEY_IDENTIFIER: Final = bytes.fromhex("0603551d23")
_ALTERNATIVE_NAMES: Final = bytes.fromhex("0603551d11")
_NO_SIGNER: Final = bytes.fromhex("300c 0603551d13 0101ff 0402 3000")
_SIGNS: Final = bytes.fromhex("300e 0603551d0f 0101ff 0404 03020780")
_SIGNS_AND_ENCIPHERS_KEYS: Final = bytes.fromhex("300e 0603551d0f 0101ff 0404 030205a0")
_SERVERS_AND_CLIENTS: Final = bytes.fromhex(
    "301d 0603551d25 0416 3014 06082b06010505070301 06082b06010505070302"
)

_MOST_SERIAL_BITS: Final = 159
_FIRST_YEAR: Final = 1950
_FIRST_GENERALIZED_YEAR: Final = 2050  # section 4.1.2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsignedSvid:
    """A certificate but for its signature."""

    signing_input: bytes
    """What is to be signed, with ECDSA and SHA-256: a TBSCertificate."""

    def signed(self, signature: bytes) -> bytes:
        """The certificate, DER."""
        return _tlv(_SEQUENCE, self.signing_input, _ECDSA_SHA256, _tlv(_BIT_STRING, b"\0", signature))


def unsigned_svid(
    spiffe_id: SpiffeId,
    public_key: PublicKey,
    valid: Lifetime,
    issuer: Issuer,
    dns_names: Sequence[str] = (),
    *,
    serial: int | None = None,
) -> UnsignedSvid:
    """An X509-SVID, to be signed with the issuer's key; the arguments are those of ``profiles.svid``.

    Raises: VST1011 for an ID without a path or of a foreign trust domain, for malformed DNS names, and for a serial
    number or a lifetime that no certificate can have.
    """
    check_workload_id(spiffe_id, issuer.trust_domain)
    names = unique_dns_names(dns_names)
    key = public_key_der(public_key)
    extensions = _tlv(
        _SEQUENCE,
        _extension(_SUBJECT_KEY_IDENTIFIER, _tlv(_OCTET_STRING, _identifier(public_key, key))),
        _of_issuer(issuer.key_identifier, isinstance(public_key, EllipticCurvePublicKey)),
        _extension(_ALTERNATIVE_NAMES, _alternative_names(spiffe_id, names)),
    )
    signing_input = _tlv(
        _SEQUENCE,
        _VERSION_3,
        _serial(serial or serial_number()),
        _ECDSA_SHA256,
        issuer.name_der,
        _validity(valid),
        _subject(names),
        key,
        _tlv(_EXTENSIONS, extensions),
    )
    return UnsignedSvid(signing_input=signing_input)


def _tlv(tag: int, *parts: bytes) -> bytes:
    """A type, the length of all parts, the parts."""
    value = b"".join(parts)
    length = len(value)
    if length < 0x80:
        return bytes((tag, length)) + value
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets, "big") + value


def _extension(oid: bytes, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, oid, _tlv(_OCTET_STRING, value))


def _serial(number: int) -> bytes:
    if not 0 < number.bit_length() <= _MOST_SERIAL_BITS or number < 0:
        raise INVALID_REQUEST.error("a serial number is positive and has at most 159 bits")
    return _tlv(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _validity(valid: Lifetime) -> bytes:
    if valid.not_after < valid.not_before:
        raise INVALID_REQUEST.error("the certificate would end before it begins")
    return _tlv(_SEQUENCE, _time(valid.not_before), _time(valid.not_after))


@lru_cache(maxsize=64)
def _time(instant: datetime) -> bytes:
    """The instant to the second; UTCTime has two digits for the year, and ends with 2049."""
    moment = instant.astimezone(UTC)
    if moment.year < _FIRST_YEAR:
        raise INVALID_REQUEST.error("no certificate can be valid before 1950")
    text = f"{moment.year:04}{moment:%m%d%H%M%S}Z".encode()
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return _tlv(_UTC_TIME, text[2:])
    return _tlv(_GENERALIZED_TIME, text)


def _subject(dns_names: Sequence[str]) -> bytes:
    if not dns_names or len(dns_names[0]) > MAX_COMMON_NAME:
        return _tlv(_SEQUENCE, _ORGANIZATION)
    common = _tlv(_SET, _tlv(_SEQUENCE, _COMMON_NAME, _tlv(_UTF8_STRING, dns_names[0].encode())))
    return _tlv(_SEQUENCE, _ORGANIZATION, common)


def _identifier(public_key: PublicKey, der: bytes) -> bytes:
    """The key's identifier: SHA-1 of what stands in its bit string (RFC 5280, section 4.2.1.2)."""
    if isinstance(public_key, EllipticCurvePublicKey):
        length = 1 + 2 * ((public_key.key_size + 7) // 8)
        return hashlib.sha1(der[-length:], usedforsecurity=False).digest()
    return key_identifier(public_key).digest


@lru_cache(maxsize=32)
def _of_issuer(key_identifier: bytes, elliptic: bool) -> bytes:
    """The extensions between those of the subject: the same for every leaf of an issuer with such a key."""
    authority = _extension(_AUTHORITY_KEY_IDENTIFIER, _tlv(_SEQUENCE, _tlv(_KEY_IDENTIFIER, key_identifier)))
    usage = _SIGNS if elliptic else _SIGNS_AND_ENCIPHERS_KEYS
    return authority + _NO_SIGNER + usage + _SERVERS_AND_CLIENTS


def _alternative_names(spiffe_id: SpiffeId, dns_names: Iterable[str]) -> bytes:
    uri = _tlv(_URI, str(spiffe_id).encode())
    return _tlv(_SEQUENCE, uri, *(_tlv(_DNS_NAME, name.encode()) for name in dns_names))
