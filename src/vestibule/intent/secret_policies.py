"""What an intent says about secrets, as the engine decides by it."""

from __future__ import annotations

from vestibule.intent.model import Intent
from vestibule.intent.port_policies import labels_of_callers
from vestibule.policy import PortPolicy

NAME = "secrets"
"""What the secret manager is called, as a service."""


def secret_policy(intent: Intent) -> PortPolicy:
    """The rules of all groups: what one denies is denied, whatever another allows."""
    groups = [intent.secrets[name] for name in sorted(intent.secrets)]
    allow = tuple(rule for each in groups for rule in each.allow)
    deny = tuple(rule for each in groups for rule in each.deny)
    return PortPolicy(
        service=NAME,
        port="",
        allow=allow,
        deny=deny,
        environment=intent.mesh.environment,
        callers=labels_of_callers(intent, (*allow, *deny)),
    )
