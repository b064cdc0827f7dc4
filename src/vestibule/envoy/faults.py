"""Trouble made on purpose, by the caller's proxy, which ends by itself.

Every HTTP listener for apps has a filter for it, which is off.  A route with a fault turns it on for itself and brings
along what it shall do; so faults come and go with routes, and no listener is ever drained for one.  Until when a
fault lasts is asked of the proxy's own clock for each request: it ends in time at a proxy that hears of nobody, too.
"""

from __future__ import annotations

from typing import Final

from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as delay_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy import cel
from vestibule.envoy.protos import fraction, packed, seconds
from vestibule.intent.traffic import Fault

FILTER: Final = "vestibule.faults"


def http_filter() -> hcm_pb2.HttpFilter:
    """The filter that routes turn on."""
    delegate = extension_matcher_pb2.ExtensionWithMatcher(xds_matcher=Matcher())
    delegate.extension_config.name = "composite"
    delegate.extension_config.typed_config.CopyFrom(packed(composite_pb2.Composite()))
    return hcm_pb2.HttpFilter(name=FILTER, typed_config=packed(delegate), disabled=True)


def of_route(fault: Fault) -> Any:
    """What a route with this fault says to the filter."""
    execute = composite_pb2.ExecuteFilterAction()
    execute.typed_config.name = "envoy.filters.http.fault"
    execute.typed_config.typed_config.CopyFrom(packed(_fault(fault)))
    while_it_lasts = Matcher.MatcherList.FieldMatcher(
        predicate=cel.before(fault.until),
        on_match=Matcher.OnMatch(
            action=TypedExtensionConfig(name="composite-action", typed_config=packed(execute))
        ),
    )
    matcher = Matcher(matcher_list=Matcher.MatcherList(matchers=[while_it_lasts]))
    return packed(extension_matcher_pb2.ExtensionWithMatcherPerRoute(xds_matcher=matcher))


def _fault(fault: Fault) -> fault_pb2.HTTPFault:
    config = fault_pb2.HTTPFault(disable_downstream_cluster_stats=True)
    if fault.delay is not None:
        config.delay.CopyFrom(
            delay_pb2.FaultDelay(
                fixed_delay=seconds(fault.delay.total_seconds()), percentage=fraction(fault.delay_percent)
            )
        )
    if fault.abort is not None:
        config.abort.CopyFrom(
            fault_pb2.FaultAbort(http_status=fault.abort, percentage=fraction(fault.abort_percent))
        )
    return config
