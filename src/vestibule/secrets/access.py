"""Who may do what with which secret, by the intent in force: see ``intent.rulings``."""

from __future__ import annotations

from collections.abc import Callable

from vestibule.clock import Clock
from vestibule.intent import Intent
from vestibule.intent.rulings import Rulings
from vestibule.intent.secret_policies import secret_policy
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId


class IntentAccess:
    """``secrets.ports.Access``: follows the intent that ``intent`` returns, from the next question on."""

    def __init__(self, intent: Callable[[], Intent | None], clock: Clock) -> None:
        self._rulings = Rulings(intent, clock, secret_policy)

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        return self._rulings.ask(caller, verb.value, f"/{path}")

    @property
    def intent(self) -> Intent | None:
        """The intent that decides."""
        return self._rulings.intent
