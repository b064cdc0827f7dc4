"""Versioned secrets: what Vault's KV engine, version 2, does."""

from vestibule.secrets.versions.secret import (
    Actor,
    Reading,
    Secret,
    SettingChange,
    Settings,
    Version,
    Written,
)
from vestibule.secrets.versions.service import LONGEST_WAIT, Versions

__all__ = [
    "LONGEST_WAIT",
    "Actor",
    "Reading",
    "Secret",
    "SettingChange",
    "Settings",
    "Version",
    "Versions",
    "Written",
]
