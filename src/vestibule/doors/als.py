"""The door for Envoy's access logs (envoy.service.accesslog.v3), on the agent's public socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from envoy.service.accesslog.v3 import als_pb2

from vestibule.doors.access_entries import LogName, Reporter, from_http, from_tcp
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.observe.access_record import AccessRecord

SERVICE: Final = als_pb2.DESCRIPTOR.services_by_name["AccessLogService"]


class RecordSink(Protocol):
    """Where records go; never waits."""

    def append(self, records: Iterable[AccessRecord]) -> None: ...


class AccessLogDoor:
    """Takes log streams from the Envoys of attached sidecars, and from nobody else."""

    def __init__(self, reporter_of: Callable[[Stream], Reporter], sink: RecordSink) -> None:
        self._reporter_of = reporter_of
        self._sink = sink

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def stream_access_logs(self, stream: Stream) -> None:
        """AccessLogService.StreamAccessLogs.  Raises: VST2133."""
        reporter = self._reporter_of(stream)
        name = LogName.parse("")
        first = True
        while (message := await stream.recv_message()) is not None:
            if first:
                # The identifier comes once; its node says nothing that we would believe.
                name, first = LogName.parse(message.identifier.log_name), False
            records = [from_http(entry, name, reporter) for entry in message.http_logs.log_entry]
            records += [from_tcp(entry, name, reporter) for entry in message.tcp_logs.log_entry]
            self._sink.append(records)
        await stream.send_message(als_pb2.StreamAccessLogsResponse())
