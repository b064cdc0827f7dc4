"""Who may do what: rules, and the decision they lead to, as pure values and functions."""

from vestibule.policy.conditions import Condition
from vestibule.policy.decisions import Decision, Verdict, decide
from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.facts import Call, McpCall
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import PathPattern, Placeholder, is_normal
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Effect, Mode, Rule, may_call

__all__ = [
    "Call",
    "Condition",
    "Decision",
    "Effect",
    "IdentityMatch",
    "McpCall",
    "McpDemand",
    "Mode",
    "PathPattern",
    "Placeholder",
    "PortPolicy",
    "Rule",
    "TokenDemand",
    "Verdict",
    "decide",
    "is_normal",
    "may_call",
]
