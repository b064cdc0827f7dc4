"""The few DER values (X.690) that are put together by hand."""

from __future__ import annotations


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return tagged(0x30, b"".join(parts))


def octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return tagged(0x04, value)


def integer(value: int) -> bytes:
    """INTEGER, not negative."""
    return tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def tagged(tag: int, value: bytes) -> bytes:
    """Anything, with its length (section 8.1.3)."""
    length = len(value)
    if length < 0x80:
        return bytes([tag, length]) + value
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + value
