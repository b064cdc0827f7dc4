"""The URNs of kinds of tokens (RFC 8693, section 3)."""

from __future__ import annotations

from typing import Final

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
TRANSACTION_TOKEN: Final = "urn:ietf:params:oauth:token-type:txn_token"  # noqa: S105 - a type

OURS: Final = frozenset({ACCESS_TOKEN, JWT})
"""What an access token of ours may be called."""
