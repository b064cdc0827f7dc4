"""Who may do what: rules, and the decision they lead to, as pure values and functions."""

from vestibule.policy.conditions import Condition, ConditionError
from vestibule.policy.decisions import Decision, Verdict
from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.engine import Engine, decide
from vestibule.policy.facts import Call, McpCall
from vestibule.policy.folding import ERROR, fold
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import NOT_NORMAL, PathPattern, Placeholder, is_normal
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Effect, Mode, Rule, may_call

__all__ = [
    "ERROR",
    "NOT_NORMAL",
    "Call",
    "Condition",
    "ConditionError",
    "Decision",
    "Effect",
    "Engine",
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
    "fold",
    "is_normal",
    "may_call",
]
