"""What is told of a token (RFC 7662, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

INACTIVE: Final[Mapping[str, Any]] = MappingProxyType({"active": False})
"""All that is told of a token that does not hold, or is none of the client's business (section 2.2)."""

_TOLD: Final = (
    *(
        "iss",
        "sub",
        "aud",
        "client_id",
        "exp",
        "iat",
        "jti",
        "scope",
        "txn",
        "act",
        "may_act",
        "sub_iss",
        "cnf",
    ),
)


def told(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a token that holds."""
    said = {name: claims[name] for name in _TOLD if name in claims}
    return {"active": True, "token_type": "Bearer", **said}
