"""Public keys of issuers of tokens: JWK sets (RFC 7517) in ``keys/``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

MOST_KEYS: Final = 100
LEAST_RSA_BITS: Final = 2048
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_LOOKS_PRIVATE: Final = re.compile(rb"PRIVATE KEY|\"(?:d|p|q|dp|dq|qi|oth|k)\"\s*:")
_CURVES: Final = frozenset({"P-256", "P-384", "P-521"})


def holds_private_keys(content: bytes) -> bool:
    """Whether any key is more than public, or looks so where the content is no JSON."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return _LOOKS_PRIVATE.search(content) is not None
    return any(isinstance(each, dict) and _PRIVATE & set(each) for each in _keys_of(found))


def why_not(text: str) -> str | None:
    """What is wrong with a JWK set, if anything is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "is no JSON"
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys:
        return "is no JWK set with keys in it"
    if len(keys) > MOST_KEYS:
        return f"holds more than {MOST_KEYS} keys"
    ids = [each.get("kid") for each in keys if isinstance(each, dict)]
    if len(keys) > 1 and (None in ids or len(set(map(str, ids))) < len(keys)):
        return "holds several keys, and not each has a `kid` of its own"
    return next((why for number, each in enumerate(keys, 1) if (why := _wrong_key(number, each))), None)


def _keys_of(found: Any) -> list[Any]:
    listed = found.get("keys") if isinstance(found, dict) else None
    return [found, *(listed if isinstance(listed, list) else [])]


def _wrong_key(number: int, key: Any) -> str | None:
    if not isinstance(key, Mapping):
        return f"holds something else than keys: key {number}"
    kind, curve = key.get("kty"), key.get("crv")
    if key.get("use", "sig") != "sig":
        return f"holds a key that is not for signatures: key {number}"
    if not (kind == "RSA" or (kind == "EC" and curve in _CURVES) or (kind == "OKP" and curve == "Ed25519")):
        return f"holds a key of a kind that is not used here: key {number}"
    try:
        bits = _bits(str(kind), dict(key))
    # Whatever a library says of a key that is none.
    except Exception:  # noqa: BLE001
        return f"holds a key that is none: key {number}"
    return (
        f"holds an RSA key of {bits} bits: key {number}" if kind == "RSA" and bits < LEAST_RSA_BITS else None
    )


def _bits(kind: str, key: dict[str, Any]) -> int:
    """How long a key is, once it has been read.  Here, since only intents with issuers need the library."""
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    makers: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    public = makers[kind].import_key(key).public_key
    return int(getattr(public, "key_size", 0))
