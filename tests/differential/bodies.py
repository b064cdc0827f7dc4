"""Bodies that calls may carry, with what they say as JSON: None for what is none, or could be read in two ways."""

from __future__ import annotations

from typing import Any, Final

BODIES: Final[dict[bytes, Any]] = {
    b"": None,
    b'{"amount": 5}': {"amount": 5},
    b'{"amount": 50, "kind": "refund"}': {"amount": 50, "kind": "refund"},
    b'{"amount": "5", "kind": 1}': {"amount": "5", "kind": 1},
    b'{"items": ["a", "acme"], "kind": "a"}': {"items": ["a", "acme"], "kind": "a"},
    b'{"items": [], "kind": null}': {"items": [], "kind": None},
    b'["amount", "kind"]': ["amount", "kind"],
    b'{"amount": 5, "amount": 500}': None,
    b'{"amount": 5': None,
    b"amount=5": None,
    b'{"amount": 99999999999999999999999}': None,
}
