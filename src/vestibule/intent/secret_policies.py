"""What an intent says about secrets, as the engine decides by it."""

from __future__ import annotations

from vestibule.intent.group_policies import policy_of
from vestibule.intent.model import Intent
from vestibule.policy import PortPolicy

NAME = "secrets"
"""What the secret manager is called, as a service."""


def secret_policy(intent: Intent) -> PortPolicy:
    """The rules of all groups: what one denies is denied, whatever another allows."""
    return policy_of(NAME, intent, intent.secrets)
