"""What an intent says about tokens, as the engine decides by it."""

from __future__ import annotations

from typing import Final

from vestibule.intent.built_in import TOKENS_SERVICE
from vestibule.intent.group_policies import policy_of
from vestibule.intent.model import Intent
from vestibule.policy import PortPolicy

NAME: Final = TOKENS_SERVICE
"""What the token service is called, as a service."""


def token_policy(intent: Intent) -> PortPolicy:
    """The rules of all groups.  No two of them speak of the same audience."""
    return policy_of(NAME, intent, intent.tokens)
