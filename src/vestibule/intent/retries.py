"""Whether the tries of a call can take place, and whether they can do harm."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from vestibule.intent import codes
from vestibule.intent.model import Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.problems import Findings, Severity
from vestibule.intent.traffic import Hedge, Retry, RetryOn
from vestibule.policy import Rule

# RFC 9110, section 9.2.2: once or several times, the effect is the same.
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
# After these, the callee has not begun with the request.
_NOT_BEGUN: Final = frozenset({RetryOn.CONNECT_FAILURE, RetryOn.REFUSED_STREAM, RetryOn.RESET_BEFORE_REQUEST})
# A gRPC server that answers so has refused the call, by the meaning of the statuses.
_REFUSED: Final = frozenset({RetryOn.UNAVAILABLE, RetryOn.RESOURCE_EXHAUSTED})
_GRPC_ONLY: Final = frozenset(
    {RetryOn.CANCELLED, RetryOn.DEADLINE_EXCEEDED, RetryOn.RESOURCE_EXHAUSTED, RetryOn.UNAVAILABLE}
)


def check_tries(retry: Retry, timeout: timedelta | None, at: Position, findings: Findings) -> None:
    """Refuse tries that together may take longer than the call (None: as long as it likes)."""
    if retry.per_try is None or timeout is None or retry.attempts * retry.per_try <= timeout:
        return
    message = (
        f"{retry.attempts} tries of {_shown(retry.per_try)} take longer than the timeout, {_shown(timeout)}"
    )
    findings.add(codes.TRIES_EXCEED_TIMEOUT, message, at)


def check_hedge(hedge: Hedge, timeout: timedelta | None, at: Position, findings: Findings) -> None:
    """Refuse a hedge whose last try would begin when the call is over."""
    if timeout is None or hedge.after * (hedge.attempts - 1) < timeout:
        return
    message = f"the last of {hedge.attempts} tries would begin after the timeout, {_shown(timeout)}"
    findings.add(codes.TRIES_EXCEED_TIMEOUT, message, at)


def check_conditions(retry: Retry, protocols: Iterable[Protocol], at: Position, findings: Findings) -> None:
    """Refuse outcomes that only gRPC has where nothing speaks it."""
    if Protocol.GRPC in protocols:
        return
    if foreign := [each.value for each in retry.on if each in _GRPC_ONLY]:
        message = f"{foreign[0]} is a status of gRPC, which is not spoken here"
        findings.add(codes.NO_EFFECT, message, at)


def warn_of_repeats(
    retry: Retry, methods: frozenset[str], protocol: Protocol | None, at: Position, findings: Findings
) -> None:
    """Warn where a request that may change something may be carried out twice.

    ``methods`` are those that can occur; empty means any.
    """
    harmless = _NOT_BEGUN | _REFUSED if protocol is Protocol.GRPC else _NOT_BEGUN
    if protocol is not None and protocol is not Protocol.GRPC:
        # They never occur there, which is a problem of its own.
        harmless = harmless | _GRPC_ONLY
    risky = [each.value for each in retry.on if each not in harmless] + [str(each) for each in retry.statuses]
    risky += ["a try that ran out of time"] if retry.per_try else []
    if retry.attempts > 1 and risky:
        _warn(methods, f"are tried again after {risky[0]}", at, findings)


def warn_of_hedges(methods: frozenset[str], at: Position, findings: Findings) -> None:
    """Warn where a request that may change something is sent a second time while the first is under way."""
    _warn(methods, "are sent again while they are under way", at, findings)


def _warn(methods: frozenset[str], what: str, at: Position, findings: Findings) -> None:
    unsafe = sorted(methods - _REPEATABLE) if methods else ["POST"]
    if unsafe:
        message = f"{unsafe[0]} requests {what}, and may be carried out twice"
        findings.add(codes.RETRIED_UNSAFELY, message, at, severity=Severity.WARNING)


def possible_methods(rules: Iterable[Rule]) -> frozenset[str] | None:
    """The methods that rules allow: empty for any, None if there are no rules."""
    listed = [rule.methods for rule in rules]
    if not listed:
        return None
    return frozenset().union(*listed) if all(listed) else frozenset()


def _shown(span: timedelta) -> str:
    milliseconds = span // timedelta(milliseconds=1)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"
