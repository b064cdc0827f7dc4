"""Key sets as issuers publish them (RFC 7517, section 5): what of them is of use, and nothing else.

A file in ``keys/`` was put there by somebody who can mend it, so that all of it has to be right.  What an issuer
publishes is its own affair: it may hold keys for encryption, of new kinds, or of old ones that are too short.  Those
are left out, and said; only a set without any key of use is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vestibule.intent.key_sets import MOST_KEYS, why_not

MOST_RSA_CHARACTERS: Final = 1400
"""Of a modulus: some 8,192 bits.  Whoever checks a signature pays for the length of the key."""

_MEMBERS: Final = ("kty", "use", "alg", "kid", "crv", "x", "y", "n", "e")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """``keys`` is a JWK set in JSON, empty if nothing is of use, for the reason ``why``; ``left_out`` is told apart."""

    keys: str = field(default="", repr=False)
    ids: tuple[str, ...] = ()
    why: str = ""
    left_out: tuple[str, ...] = ()


def published(document: bytes) -> Published:
    """What of a document is of use.  Equal sets give equal text, in whichever order they are written."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return Published(why="is no JSON")
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or not listed:
        return Published(why="is no JWK set with keys in it")
    if len(listed) > MOST_KEYS:
        return Published(why=f"holds more than {MOST_KEYS} keys")
    if any(isinstance(each, Mapping) and _PRIVATE & set(each) for each in listed):
        # Whoever publishes its private keys has tokens that anybody could have made.
        return Published(why="holds a private key, or one that is shared")
    left_out: list[str] = []
    kept = {each.get("kid", ""): each for each in _of_use(listed, left_out)}
    if not kept:
        return Published(why=f"holds no key of use: {'; '.join(left_out[:5])}", left_out=tuple(left_out))
    keys = [kept[each] for each in sorted(kept)]
    text = json.dumps({"keys": keys}, separators=(",", ":"), sort_keys=True)
    return Published(keys=text, ids=tuple(sorted(kept)), left_out=tuple(left_out))


def _of_use(listed: list[Any], left_out: list[str]) -> Iterator[dict[str, str]]:
    seen: set[str] = set()
    for number, each in enumerate(listed, 1):
        if (why := _why_not(each, seen, alone=len(listed) == 1)) is not None:
            left_out.append(f"key {number} {why}")
            continue
        key = {name: each[name] for name in _MEMBERS if name in each}
        seen.add(key.get("kid", ""))
        yield key


def _why_not(key: Any, seen: set[str], *, alone: bool) -> str | None:
    if not isinstance(key, Mapping) or any(not isinstance(key.get(name, ""), str) for name in _MEMBERS):
        return "is none"
    if len(key.get("n", "")) > MOST_RSA_CHARACTERS:
        return "is too long"
    kid = key.get("kid", "")
    if not alone and not kid:
        return "has no `kid`, and there are others"
    if kid in seen:
        return "has the `kid` of another"
    why = why_not(json.dumps({"keys": [dict(key)]}))
    return None if why is None else why.removeprefix("holds a key that ").removesuffix(": key 1")
