"""Verifying a CMS signature (RFC 5652) with a key that is known beforehand, and giving the content that was signed.

Only what instance identity documents need: SignedData with its content inside, one signer, SHA-256 with RSA.  BER
is read, since AWS writes it (indefinite lengths, strings in pieces); what is verified is what is returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

MAX_DEPTH: Final = 16
MAX_NODES: Final = 2000

_SEQUENCE, _SET, _OCTETS, _OID, _CONTENT, _ATTRIBUTES = 0x30, 0x31, 0x04, 0x06, 0xA0, 0xA0
_CONSTRUCTED_OCTETS: Final = 0x24
_SIGNED_DATA: Final = bytes.fromhex("2a864886f70d010702")
_MESSAGE_DIGEST: Final = bytes.fromhex("2a864886f70d010904")
_CONTENT_TYPE: Final = bytes.fromhex("2a864886f70d010903")
_SHA256: Final = bytes.fromhex("608648016503040201")
_RSA: Final = frozenset({bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01010b")})


class CmsError(ValueError):
    """Not a signature of the kind that is read here, or not one by this key."""


@dataclass(frozen=True, slots=True)
class _Node:
    tag: int
    value: bytes = b""
    children: tuple[_Node, ...] = ()
    raw: bytes = field(default=b"", repr=False)


def signed_content(data: bytes, keys: Sequence[rsa.RSAPublicKey]) -> bytes:
    """The content of SignedData that one of ``keys`` signed.  Raises: CmsError.

    1. It is SignedData with content inside, and one signer who used SHA-256 and RSA.
    2. With signed attributes: exactly one of them is the digest, and it is that of the content; the signature is
       over the attributes.  Without: it is over the content.
    3. One of the keys made the signature.  Certificates that came along are not looked at.
    """
    content_type, wrapped = _children(_parse(data), _SEQUENCE, 2)  # 1
    if content_type.value != _SIGNED_DATA:
        raise CmsError("it is not SignedData")
    signed_data = _children(_children(wrapped, _CONTENT, 1)[0], _SEQUENCE)
    if len(signed_data) < 4:
        raise CmsError("SignedData is incomplete")
    content_info = _children(signed_data[2], _SEQUENCE, 2)
    content = _octets(_children(content_info[1], _CONTENT, 1)[0])
    (signer,) = _children(signed_data[-1], _SET, 1)
    _, _, digest_algorithm, *rest = _children(signer, _SEQUENCE)
    signed = content
    if rest and rest[0].tag == _ATTRIBUTES:  # 2
        attributes = rest.pop(0)
        _check_attributes(attributes, content, content_info[0].value)
        # What is signed is the SET, though it stands here under another tag.
        signed = bytes([_SET]) + attributes.raw[1:]
    if len(rest) < 2 or _algorithm(digest_algorithm) != _SHA256 or _algorithm(rest[0]) not in _RSA:
        raise CmsError("it is not signed with SHA-256 and RSA")
    signature = _octets(rest[1])
    if not any(_is_by(key, signature, signed) for key in keys):  # 3
        raise CmsError("no known key made the signature")
    return content


def _check_attributes(attributes: _Node, content: bytes, content_type: bytes) -> None:
    # Definite lengths: the signature is over the DER form, and this must be it already.
    if attributes.raw[1] == 0x80:
        raise CmsError("the signed attributes are not DER")
    found: dict[bytes, list[_Node]] = {}
    for attribute in attributes.children:
        kind, values = _children(attribute, _SEQUENCE, 2)
        found.setdefault(kind.value, []).extend(_children(values, _SET))
    digests, types = found.get(_MESSAGE_DIGEST, []), found.get(_CONTENT_TYPE, [])
    if len(digests) != 1 or _octets(digests[0]) != hashlib.sha256(content).digest():
        raise CmsError("the signed digest is not that of the content")
    if len(types) != 1 or types[0].value != content_type:
        raise CmsError("the signed content type is not that of the content")


def _is_by(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _algorithm(node: _Node) -> bytes:
    parts = _children(node, _SEQUENCE)
    if not parts or parts[0].tag != _OID:
        raise CmsError("an algorithm is malformed")
    return parts[0].value


def _children(node: _Node, tag: int, count: int | None = None) -> tuple[_Node, ...]:
    if node.tag != tag or (count is not None and len(node.children) != count):
        raise CmsError(f"a part with tag {node.tag:#x} stands where another belongs")
    return node.children


def _octets(node: _Node) -> bytes:
    if node.tag == _OCTETS:
        return node.value
    if node.tag == _CONSTRUCTED_OCTETS and all(each.tag == _OCTETS for each in node.children):
        return b"".join(each.value for each in node.children)
    raise CmsError("a part that should be octets is not")


def _parse(data: bytes) -> _Node:
    reader = _Reader(data)
    node, end = reader.node(0, len(data), 0)
    if node is None or end != len(data):
        raise CmsError("something follows the end")
    return node


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._nodes = 0

    def node(self, start: int, limit: int, depth: int) -> tuple[_Node | None, int]:
        """The node that begins at ``start``, and where it ends; no node for an end-of-contents mark."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise CmsError("it is nested too deeply, or has too many parts")
        tag, length, begin = self._head(start, limit)
        if tag == 0 and length == 0:
            return None, begin
        if length is None:
            if not tag & 0x20:
                raise CmsError("an indefinite length where there is none")
            children, end = self._until_mark(begin, limit, depth)
        else:
            end = begin + length
            if end > limit:
                raise CmsError("a part is longer than what holds it")
            children = self._within(begin, end, depth) if tag & 0x20 else ()
        value = b"" if tag & 0x20 else self._data[begin:end]
        return _Node(tag, value, children, self._data[start:end]), end

    def _head(self, start: int, limit: int) -> tuple[int, int | None, int]:
        head = self._data[start : min(start + 6, limit)]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise CmsError("it ends too early, or has a tag of several bytes")
        if head[1] < 0x80:
            return head[0], head[1], start + 2
        size = head[1] & 0x7F
        if size == 0:
            return head[0], None, start + 2
        if size > 4 or len(head) < 2 + size:
            raise CmsError("a length is malformed")
        return head[0], int.from_bytes(head[2 : 2 + size]), start + 2 + size

    def _within(self, begin: int, end: int, depth: int) -> tuple[_Node, ...]:
        found = []
        while begin < end:
            node, begin = self.node(begin, end, depth + 1)
            if node is None:
                raise CmsError("an end mark where there is none")
            found.append(node)
        return tuple(found)

    def _until_mark(self, begin: int, limit: int, depth: int) -> tuple[tuple[_Node, ...], int]:
        found: list[_Node] = []
        while True:
            node, begin = self.node(begin, limit, depth + 1)
            if node is None:
                return tuple(found), begin
            found.append(node)
