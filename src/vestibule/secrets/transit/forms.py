"""The text forms ``vault:vN:BASE64`` of what the engine makes."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from vestibule.secrets.transit.codes import UNREADABLE_INPUT

_FORM: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/_=-]*)", re.ASCII)


def written(version: int, made: bytes, *, url_safe: bool = False) -> str:
    """The text form; ``url_safe`` is that of JWS, without padding."""
    text = urlsafe_b64encode(made).rstrip(b"=") if url_safe else b64encode(made)
    return f"vault:v{version}:{text.decode()}"


def read(text: object, *, url_safe: bool = False) -> tuple[int, bytes]:
    """The version and what it made.  Raises: VST5502."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UNREADABLE_INPUT.error("it does not have the form vault:vN:BASE64")
    body = found[2]
    try:
        made = (
            urlsafe_b64decode(body + "=" * (-len(body) % 4)) if url_safe else b64decode(body, validate=True)
        )
    except (binascii.Error, ValueError):
        raise UNREADABLE_INPUT.error("what follows vault:vN: is not base64") from None
    return int(found[1]), made


def plain(name: str, text: object) -> bytes:
    """The bytes of a base64 field called ``name``.  Raises: VST5502."""
    if not isinstance(text, str):
        raise UNREADABLE_INPUT.error(f"{name} is not a base64 string")
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UNREADABLE_INPUT.error(f"{name} is not base64") from None
