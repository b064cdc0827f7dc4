"""The decision log: a line for each call that was decided on this node, and by which rule.

It is made of the access records that proxies send in any case, so that a decision costs no hop.  The callee's proxy
decides about calls to its app; the caller's about calls that it does not even make, and about hosts outside.

All denials are logged, and all that break-glass allowed; of the rest, what proxies log (``envoy.access_log``) and of
that a sample.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from vestibule.observe.access_log import AccessLine
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.masking import Mask
from vestibule.records import BREAK_GLASS

SCHEMA: Final = "vestibule.decision/v1"
_OUTSIDE: Final = "external:"
_VERDICTS: Final = {"allowed": "allowed", "failed": "allowed", "denied": "denied", "refused": "refused"}
"""A call that failed was allowed, and found nobody."""


class DecisionSink(Protocol):
    """Takes lines of JSON; never waits."""

    def take(self, text: str, *, allowed: bool) -> None:
        """``allowed``: what may be dropped first."""
        ...


class DecisionLog:
    """Makes decisions of access records, and gives them to every sink."""

    def __init__(
        self,
        settings: DecisionLogSettings,
        sinks: Iterable[DecisionSink],
        chance: Callable[[], float] = random.random,
        commit_of: Callable[[str], str] = lambda _version: "",
    ) -> None:
        """``commit_of`` knows the commit of an intent by its version, if it came from git."""
        self._sample = settings.sample / 100
        self._mask = Mask.parse(settings.mask)
        self._claims = settings.claims
        self._sinks = tuple(sinks)
        self._chance = chance
        self._commit_of = commit_of
        self.left_out = 0
        """Calls that were allowed and not in the sample."""

    def append(self, lines: Iterable[AccessLine]) -> None:
        """Log what was decided.  Never waits."""
        if not self._sinks:
            return
        for line in lines:
            record = json.loads(line.text)
            if not is_decision(record, by_break_glass=line.by_break_glass):
                continue
            document = self._document(record, line)
            allowed = document["verdict"] == "allowed"
            if allowed and not self._is_kept(document):
                self.left_out += 1
                continue
            self._mask.apply(document)
            text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
            for sink in self._sinks:
                sink.take(text, allowed=allowed and not document["break_glass"])

    def _is_kept(self, document: Mapping[str, Any]) -> bool:
        if document["break_glass"] or document["shadow_verdict"] == "denied":
            return True
        return self._chance() < self._sample

    def _document(self, record: Mapping[str, Any], line: AccessLine) -> dict[str, Any]:
        version = record.get("intent_version", "")
        return {
            "schema": SCHEMA,
            "id": secrets.token_hex(8),
            "time": record["time"],
            "verdict": _VERDICTS[record["verdict"]],
            "rule": record.get("rule", ""),
            "where": record.get("where", ""),
            "code": record.get("code", ""),
            "caller": record.get("source_spiffe_id", ""),
            "caller_address": record.get("source_address", ""),
            "claims": self._chosen_claims(line),
            "service": record.get("destination_service", ""),
            "port": record.get("destination_port", ""),
            "layer": record["layer"],
            "method": record.get("method", ""),
            "authority": record.get("authority", ""),
            "path": record.get("path", ""),
            "mcp_method": record.get("mcp_method", ""),
            "mcp_target": record.get("mcp_target", ""),
            "status": record.get("status"),
            "details": record.get("details", "") or record.get("transport_failure", ""),
            "decided_by": record["direction"],
            "proxy": record["reporter_instance"],
            "proxy_id": record["reporter_spiffe_id"],
            "intent_version": version,
            "intent_commit": self._commit_of(version),
            "request_id": record.get("request_id", ""),
            "trace_id": record.get("trace_id", ""),
            "latency_ms": record.get("duration_ms"),
            "shadow_verdict": record.get("shadow_verdict", ""),
            "shadow_rule": record.get("shadow_rule", ""),
            "break_glass": record.get("rule", "").startswith(BREAK_GLASS),
            "plaintext": record.get("plaintext", False),
        }

    def _chosen_claims(self, line: AccessLine) -> dict[str, Any]:
        if not self._claims or line.tokens is None:
            return {}
        tokens = line.tokens()
        return {name: claims[name] for claims in tokens.values() for name in self._claims if name in claims}


def is_decision(record: Mapping[str, Any], *, by_break_glass: bool) -> bool:
    """Whether the proxy that logged this decided about it."""
    if record["direction"] == "inbound":
        # A connection that break-glass allowed is told of twice, and decided once.
        twice = record["layer"] == "tcp" and record.get("rule", "").startswith(BREAK_GLASS)
        return by_break_glass or not twice
    if record["verdict"] == "denied":
        return True
    outside: bool = record.get("destination_service", "").startswith(_OUTSIDE)
    return outside
