"""When a signing authority gets its successor: the same for certificates and for JWT keys."""

from __future__ import annotations

from datetime import datetime, timedelta


def prepare_at(begins: datetime, ends: datetime) -> datetime:
    """When the successor is made: at half of the life, at most 30 days before its end."""
    return ends - min((ends - begins) / 2, timedelta(days=30))


def activate_at(begins: datetime, ends: datetime) -> datetime:
    """When the successor takes over: at 5/6 of the life, at most 7 days before its end."""
    return ends - min((ends - begins) / 6, timedelta(days=7))
