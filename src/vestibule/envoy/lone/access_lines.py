"""Access logs of a proxy without an agent to hear them: a line of JSON for each request, with both identities.

The names are those of ``vestibule.access/v1``, as far as a proxy alone can say them.  Where it goes is a file, or the
proxy's standard output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from google.protobuf.struct_pb2 import Struct

from vestibule.envoy.access_log import KEPT_REQUEST_ID
from vestibule.envoy.protos import packed
from vestibule.envoy.rbac import SHADOW_PREFIX

STDOUT: Final = "-"
"""In place of a file's name."""

MARK: Final = '{"access":"lone"'
"""How the lines begin, among whatever else a proxy prints."""

_RULE: Final = "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%"
_SHADOW: Final = f"%DYNAMIC_METADATA(envoy.filters.http.rbac:{SHADOW_PREFIX}shadow_effective_policy_id)%"
_TCP_RULE: Final = f"%DYNAMIC_METADATA(envoy.filters.network.rbac:{SHADOW_PREFIX}shadow_effective_policy_id)%"
_ALWAYS: Final = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}
_REQUEST: Final = {
    "layer": "http",
    "method": "%REQ(:METHOD):32%",
    "host": "%REQ(:AUTHORITY):253%",
    # Without the query, which may hold anything.
    "path": "%PATH(NQ:ORIG_OR_PATH):2000%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "rule": _RULE,
    "shadow_rule": _SHADOW,
    "trace": "%REQ(TRACEPARENT):100%",
}
_CONNECTION: Final = {"layer": "tcp", "details": "%CONNECTION_TERMINATION_DETAILS%", "rule": _TCP_RULE}


class Lines:
    """What the logs of one sidecar become.

    ``identity`` is its own, ``target`` a file, ``STDOUT``, or empty for no logs.
    """

    def __init__(self, identity: str, target: str) -> None:
        self._identity = identity
        self._target = target

    def of(self, logs: Iterable[AccessLog], *, only_refused: bool = False) -> Iterator[AccessLog]:
        """In place of logs that an agent would hear; those that only tell of break-glass become nothing.

        ``only_refused``: of connections, since the requests on them are told one by one.
        """
        for each in logs if self._target else ():
            if _is_emergency(each.filter):
                continue
            config = als_pb2.HttpGrpcAccessLogConfig()
            if each.typed_config.Unpack(config):
                yield self._line({**_REQUEST, **self._who(config.common_config)})
                continue
            connections = als_pb2.TcpGrpcAccessLogConfig()
            if each.typed_config.Unpack(connections):
                yield self._connection(connections.common_config, only_refused=only_refused)

    def _connection(self, common: als_pb2.CommonGrpcAccessLogConfig, *, only_refused: bool) -> AccessLog:
        rule = next((each.value for each in common.custom_tags if each.tag == "rule"), _TCP_RULE)
        who = self._who(common)
        if who["direction"] == "inbound":
            who["refused"] = "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"
        made = self._line({**_CONNECTION, "rule": rule, **who})
        if only_refused:
            made.filter.response_flag_filter.CopyFrom(accesslog_pb2.ResponseFlagFilter())
        return made

    def _who(self, common: als_pb2.CommonGrpcAccessLogConfig) -> dict[str, str]:
        _, direction, service, port = [*common.log_name.split("/", 3), "", "", "", ""][:4]
        if direction == "inbound":
            return {
                "direction": direction,
                "source_spiffe_id": "%DOWNSTREAM_PEER_URI_SAN%",
                "source_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "destination": f"{service}/{port}",
                "destination_spiffe_id": self._identity,
                "request_id": "%REQ(X-REQUEST-ID):100%",
            }
        return {
            "direction": direction,
            "source_spiffe_id": self._identity,
            # Of what is refused before it is sent there is none.
            "destination": "%UPSTREAM_CLUSTER%",
            "destination_spiffe_id": "%UPSTREAM_PEER_URI_SAN%",
            "destination_address": "%UPSTREAM_HOST%",
            "request_id": "%REQ(X-REQUEST-ID):100%",
            # Taken off before a request leaves for a host outside.
            "kept_request_id": KEPT_REQUEST_ID,
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        }

    def _line(self, form: dict[str, str]) -> AccessLog:
        fields = Struct()
        fields.update({"access": "lone", **_ALWAYS, **form})
        if self._target == STDOUT:
            printed = stream_pb2.StdoutAccessLog()
            printed.log_format.json_format.CopyFrom(fields)
            printed.log_format.omit_empty_values = True
            return AccessLog(name="envoy.access_loggers.stdout", typed_config=packed(printed))
        written = file_pb2.FileAccessLog(path=self._target)
        written.log_format.json_format.CopyFrom(fields)
        written.log_format.omit_empty_values = True
        return AccessLog(name="envoy.access_loggers.file", typed_config=packed(written))


def _is_emergency(filters: accesslog_pb2.AccessLogFilter) -> bool:
    if filters.HasField("or_filter"):
        return any(each.HasField("metadata_filter") for each in filters.or_filter.filters)
    return bool(filters.HasField("metadata_filter"))
