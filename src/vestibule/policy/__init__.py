"""Who may do what: rules, and the decision they lead to, as pure values and functions."""

from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import PathPattern, Placeholder, is_normal
from vestibule.policy.rules import Call, Decision, Rule, decide, may_call

__all__ = [
    "Call",
    "Decision",
    "IdentityMatch",
    "PathPattern",
    "Placeholder",
    "Rule",
    "decide",
    "is_normal",
    "may_call",
]
