"""Trouble made on purpose, by the caller's proxy, which ends by itself."""

from __future__ import annotations

from envoy.extensions.filters.common.fault.v3 import fault_pb2 as delay_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from google.protobuf.any_pb2 import Any

from vestibule.envoy import switched
from vestibule.envoy.protos import fraction, seconds
from vestibule.intent.traffic import Fault


def of_route(fault: Fault) -> Any:
    """What a route with this fault says to the filter that it switches on."""
    return switched.on([("envoy.filters.http.fault", _fault(fault))], until=fault.until)


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
