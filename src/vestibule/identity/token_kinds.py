"""The two kinds of tokens that the server signs: bearer's (JWT-SVIDs) and bound to a key (WIT-SVIDs).

Their authorities live alike, in records of the same form; no key signs both kinds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from vestibule.identity.upstream import UpstreamServer
from vestibule.spiffe import JwtAuthority, TrustBundle
from vestibule.store import Store
from vestibule.store.ports import JwtKeys, PublishedJwtKeys


@dataclass(frozen=True, slots=True)
class TokenKind:
    """Where the authorities of a kind are kept and found, and what audit records and messages call them."""

    name: str
    shown: str
    key_prefix: str
    kept: Callable[[Store], JwtKeys]
    published: Callable[[Store], PublishedJwtKeys]
    in_bundle: Callable[[TrustBundle], tuple[JwtAuthority, ...]]
    publish: Callable[[UpstreamServer, JwtAuthority], Awaitable[tuple[JwtAuthority, ...] | None]]


JWT: Final = TokenKind(
    "jwt-authority",
    "JWT",
    "jwt-key-",
    lambda store: store.jwt_keys,
    lambda store: store.published_jwt_keys,
    lambda bundle: bundle.jwt_authorities,
    lambda above, key: above.publish_jwt(key),
)
WIT: Final = TokenKind(
    "wit-authority",
    "WIT",
    "wit-key-",
    lambda store: store.wit_keys,
    lambda store: store.published_wit_keys,
    lambda bundle: bundle.wit_authorities,
    lambda above, key: above.publish_wit(key),
)
