"""Who calls."""

from __future__ import annotations

from typing import Final

from vestibule.spiffe import SpiffeId

_ROOT: Final = "spiffe://example.org"
ELSEWHERE: Final = "other.example"
"""A trust domain whose identities are believed, too."""

CALLERS: Final = (
    *(
        SpiffeId.parse(f"{_ROOT}{path}")
        for path in (
            "/ns/prod/sa/web",
            "/ns/prod/sa/web/blue",
            "/ns/prod/sa/webX",
            "/ns/prod/sa/orders",
            "/ns/prod",
            "/ns/test/sa/web",
            "/ns/prodX/sa/web",
        )
    ),
    SpiffeId.parse(f"spiffe://{ELSEWHERE}/ns/prod/sa/web"),
)
