"""Names and passwords of users that we make: characters that mean nothing anywhere, and enough chance."""

from __future__ import annotations

import re
import secrets
import string
from datetime import datetime
from typing import Final

from vestibule.spiffe import SpiffeId

LONGEST_NAME: Final = 63
"""PostgreSQL cuts longer ones off, in silence."""
_CALLER: Final = 20
_ROLE: Final = 12
_RANDOM: Final = 16
_PASSWORD: Final = 40
_OTHERS: Final = re.compile(r"[^a-z0-9_]+", re.ASCII)
_NAME_ALPHABET: Final = string.ascii_lowercase + string.digits
_PASSWORD_ALPHABET: Final = string.ascii_letters + string.digits


def username(owner: SpiffeId, role: str, now: datetime) -> str:
    """A new user's name, which tells for whom, as what and when (seconds since 1970) it was made."""
    caller = _plain(owner.path.rpartition("/")[2])[:_CALLER].strip("-") or "workload"
    kind = _plain(role)[:_ROLE].strip("-") or "role"
    return f"v-{caller}-{kind}-{_random(_NAME_ALPHABET, _RANDOM)}-{int(now.timestamp())}"[:LONGEST_NAME]


def heir(user: str) -> str:
    """The role that a user's tables and views go to when it is taken away.  What is cut off is the time it was made."""
    return f"left-{user}"[:LONGEST_NAME]


def password() -> str:
    """A new password: 238 bits of chance."""
    return _random(_PASSWORD_ALPHABET, _PASSWORD)


def _plain(text: str) -> str:
    return _OTHERS.sub("-", text.lower())


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
