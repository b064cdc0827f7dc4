"""Names that services of an intent cannot have: the platform's own services are called by them."""

from __future__ import annotations

from typing import Final

SECRETS_SERVICE: Final = "secrets"
"""The secret manager: http://secrets/ in every app beside a sidecar."""

TOKENS_SERVICE: Final = "tokens"
"""The token service: http://tokens/ in every app beside a sidecar."""

BUILT_IN: Final = frozenset({SECRETS_SERVICE, TOKENS_SERVICE})
