"""PEM (RFC 7468): what people copy between machines.  Text around the blocks is allowed, and passed over."""

from __future__ import annotations

import base64
import binascii
import re
import textwrap
from typing import Final

from vestibule.pki.codes import MALFORMED_PEM

CERTIFICATE: Final = "CERTIFICATE"
REQUEST: Final = "CERTIFICATE REQUEST"
CRL: Final = "X509 CRL"
MAX_PEM_BYTES: Final = 1024 * 1024

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----")


def pem_block(label: str, der: bytes) -> bytes:
    """One block."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def pem_blocks(data: bytes, label: str) -> tuple[bytes, ...]:
    """The DER in all blocks with this label, in order.  Raises: VST1032 when there is none."""
    if len(data) > MAX_PEM_BYTES:
        raise MALFORMED_PEM.error(f"the file is larger than {MAX_PEM_BYTES} bytes")
    found = [body for kind, body in _BLOCK.findall(data) if kind == label.encode()]
    if not found:
        raise MALFORMED_PEM.error(f"there is no PEM block named {label}")
    try:
        return tuple(base64.b64decode(b"".join(body.split()), validate=True) for body in found)
    except binascii.Error as error:
        raise MALFORMED_PEM.error(f"a PEM block named {label} is not base64") from error
