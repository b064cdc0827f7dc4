"""When a signing authority gets its successor: the same for certificates and for JWT keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

_LOOKS: Final = 5


def prepare_at(begins: datetime, ends: datetime) -> datetime:
    """When the successor is made: at half of the life, at most 30 days before its end."""
    return ends - min((ends - begins) / 2, timedelta(days=30))


def activate_at(begins: datetime, ends: datetime) -> datetime:
    """When the successor takes over: at 5/6 of the life, at most 7 days before its end."""
    return ends - min((ends - begins) / 6, timedelta(days=7))


def notice(life: timedelta) -> timedelta:
    """How long a successor is published before it signs, where authorities live for ``life``."""
    return min(life / 2, timedelta(days=30)) - min(life / 6, timedelta(days=7))


def refresh_hint(life: timedelta) -> timedelta:
    """How often a bundle is to be looked at: five times between a successor's publication and its first signature.

    (SPIFFE_Federation.md, section 4.1, advises three to five.)  A second at least.
    """
    return max(notice(life) / _LOOKS, timedelta(seconds=1))
