"""Deciding by a few rules, without an intent around them."""

from __future__ import annotations

from collections.abc import Iterable

from vestibule.policy import Call, Decision, PortPolicy, Rule, decide


def decided(rules: Iterable[Rule], call: Call) -> Decision:
    """The decision of a port whose service has these rules under ``allow`` and no others."""
    return decide(PortPolicy(service="app", port=call.port, allow=tuple(rules)), call)
