"""Which tries are tried again, when, and where."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy.protos import packed, seconds
from vestibule.intent.traffic import Hedge, Retry, RetryOn

HOST_SELECTIONS: Final = 20
"""How often the load balancer may be asked for one that was not tried yet."""

_ENVOYS_OWN_BACKOFF: Final = timedelta(milliseconds=25)
_LONGEST_BACKOFF: Final = 10  # first pauses; Envoy's own default


def apply(action: RouteAction, retry: Retry, hedge: Hedge | None = None) -> None:
    """Let a route try again.  A hedge decides how many tries there are, and when the next begins."""
    attempts = retry.attempts if hedge is None else hedge.attempts
    if attempts <= 1 and retry.per_try is None:
        return
    policy = action.retry_policy
    policy.retry_on = ",".join(_conditions(retry, hedge))
    policy.num_retries.CopyFrom(UInt32Value(value=max(attempts - 1, 0)))
    policy.retriable_status_codes.extend(retry.statuses)
    # Each further try looks for another instance than those that failed, as far as there is one.
    policy.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
    )
    policy.host_selection_retry_max_attempts = HOST_SELECTIONS
    if retry.backoff != _ENVOYS_OWN_BACKOFF:
        first = retry.backoff.total_seconds()
        policy.retry_back_off.base_interval.CopyFrom(seconds(first))
        policy.retry_back_off.max_interval.CopyFrom(seconds(first * _LONGEST_BACKOFF))
    if hedge is not None:
        policy.per_try_timeout.CopyFrom(seconds(hedge.after.total_seconds()))
        action.hedge_policy.hedge_on_per_try_timeout = True
    elif retry.per_try is not None:
        policy.per_try_timeout.CopyFrom(seconds(retry.per_try.total_seconds()))


def _conditions(retry: Retry, hedge: Hedge | None) -> list[str]:
    found = [each.value for each in retry.on]
    if retry.per_try is not None and hedge is None and RetryOn.RESET not in retry.on:
        # Envoy takes a try that ran out of time for a reset, and would not repeat it without this word.
        found.append(RetryOn.RESET.value)
    if retry.statuses:
        found.append("retriable-status-codes")
    return found
