"""Tokens as attackers would like them: true ones with something changed, signed anew where they could."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vestibule.pki.jwk import decode_base64url, encode_base64url
from vestibule.pki.keys import key_from_pkcs8
from vestibule.testing.tokens import MemoryTokens, signed
from vestibule.tokens.keyring import KeyState, decoded, found
from vestibule.tokens.keys import ROW, SPACE


def header_of(token: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(decode_base64url(token.split(".")[0]))
    return said


def claims_of(token: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(decode_base64url(token.split(".")[1]))
    return said


def part(said: Any) -> str:
    return encode_base64url(json.dumps(said).encode())


def with_parts(token: str, *, header: Mapping[str, Any] | None = None, claims: Any = None) -> str:
    """Other parts under the old signature."""
    parts = token.split(".")
    if header is not None:
        parts[0] = part({**header_of(token), **header})
    if claims is not None:
        parts[1] = part({**claims_of(token), **claims})
    return ".".join(parts)


async def with_true_signature(
    lab: MemoryTokens, token: str, header: Mapping[str, Any] | None = None, **claims: Any
) -> str:
    """Other parts, signed with the service's own key: as if its code had made them.  None takes a claim away."""
    item = await lab.barrier.get(SPACE, ROW)
    assert item is not None
    current = found(decoded(item.value), KeyState.CURRENT)
    assert current is not None
    said = {name: each for name, each in {**claims_of(token), **claims}.items() if each is not None}
    head = {name: each for name, each in {**header_of(token), **(header or {})}.items() if each is not None}
    return signed(head, said, key_from_pkcs8(current.private))
