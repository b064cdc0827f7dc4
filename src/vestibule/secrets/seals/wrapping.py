"""A root key inside a document, under a key that the seal has; nothing in the document can be changed unnoticed."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.keys.sealing import Sealer
from vestibule.secrets.seals.codes import SEAL_REFUSED
from vestibule.secrets.seals.ports import Document

MAX_DOCUMENT: Final = 256 * 1024


def wrapped(document: dict[str, Any], root_key: bytes, key: bytes) -> Document:
    """The document with the root key in it, sealed by ``key`` and tied to everything else that it says."""
    sealed = Sealer(key).seal(root_key, context=bound(document))
    return {**document, "wrapped": base64.b64encode(sealed).decode()}


def unwrapped(document: Document, key: bytes) -> bytes:
    """The root key.  Raises: VST5015."""
    try:
        return Sealer(key).unseal(sealed(document), context=bound(document))
    except VestibuleError:
        raise SEAL_REFUSED.error(f"the seal ({document.get('kind')}) does not open with this key") from None


def sealed(document: Document) -> bytes:
    """The wrapped root key of a document.  Raises: VST5015."""
    try:
        return base64.b64decode(document["wrapped"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise SEAL_REFUSED.error("the seal in the database is malformed") from None


def bound(document: Document) -> bytes:
    """Everything in the document but the wrapped root key."""
    rest = {name: value for name, value in document.items() if name != "wrapped"}
    return b"vestibule seal " + json.dumps(rest, sort_keys=True).encode()


def encode(document: Document) -> bytes:
    """As it is kept."""
    return json.dumps(dict(document), sort_keys=True).encode()


def decode(encoded: bytes) -> Document:
    """What ``encode`` made; nothing in it is to be trusted.  Raises: VST5015."""
    try:
        document = json.loads(encoded) if len(encoded) <= MAX_DOCUMENT else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise SEAL_REFUSED.error("the seal in the database is malformed")
    return document
