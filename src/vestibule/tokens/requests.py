"""What a client asks for, as doors hand it on; parsed, and not yet permitted."""

from __future__ import annotations

from dataclasses import dataclass, field

from vestibule.tokens.types import ACCESS_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """For whom the token is to be, and with which scopes (``targets``)."""

    targets: tuple[str, ...]
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a transaction token is about: JSON objects, as texts (draft-ietf-oauth-transaction-tokens)."""

    request_context: str = field(default="", repr=False)
    request_details: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The tokens that are given in exchange, and the kind that is wanted for them."""

    subject_token: str = field(repr=False)
    subject_type: str
    actor_token: str | None = field(default=None, repr=False)
    actor_type: str | None = None
    requested_type: str = ACCESS_TOKEN
    context: Context | None = None
