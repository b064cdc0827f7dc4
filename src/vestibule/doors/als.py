"""The door for Envoy's access logs (envoy.service.accesslog.v3), on the agent's public socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from envoy.service.accesslog.v3 import als_pb2

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.observe.access_log import AccessLine

SERVICE: Final = als_pb2.DESCRIPTOR.services_by_name["AccessLogService"]


class LineSink(Protocol):
    """Where lines go; never waits."""

    def append(self, lines: Iterable[AccessLine]) -> None: ...


class AccessLogDoor:
    """Takes log streams from the Envoys of attached sidecars, and from nobody else."""

    def __init__(self, reporter_of: Callable[[Stream], Reporter], *sinks: LineSink) -> None:
        self._reporter_of = reporter_of
        self._sinks = sinks

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def stream_access_logs(self, stream: Stream) -> None:
        """AccessLogService.StreamAccessLogs.  Raises: VST2133."""
        reporter = self._reporter_of(stream)
        lines: EntryLines | None = None
        while (message := await stream.recv_message()) is not None:
            if lines is None:
                # The identifier comes once; its node says nothing that we would believe.
                lines = EntryLines(LogName.parse(message.identifier.log_name), reporter)
            found = [lines.http(entry) for entry in message.http_logs.log_entry]
            found += filter(None, map(lines.connection, message.tcp_logs.log_entry))
            for sink in self._sinks:
                sink.append(found)
        await stream.send_message(als_pb2.StreamAccessLogsResponse())
