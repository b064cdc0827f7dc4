"""What one intent means differently from another: who gains or loses which call, and what else changes."""

from __future__ import annotations

from dataclasses import dataclass

from vestibule.intent.access_changes import AccessChange, access_changes
from vestibule.intent.model import Intent
from vestibule.intent.setting_changes import SettingChange, setting_changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All of it; empty where two intents mean the same, however they are written."""

    access: tuple[AccessChange, ...] = ()
    settings: tuple[SettingChange, ...] = ()

    @property
    def losses(self) -> tuple[AccessChange, ...]:
        """The calls that somebody may no longer make."""
        return tuple(each for each in self.access if not each.gains)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.access or self.settings)


def difference(old: Intent | None, new: Intent | None) -> Difference:
    """From ``old`` to ``new``; None is no intent at all."""
    return Difference(access=access_changes(old, new), settings=setting_changes(old, new))
