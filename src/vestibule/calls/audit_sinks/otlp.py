"""Records as logs of OpenTelemetry: OTLP over HTTP, in JSON (opentelemetry.io/docs/specs/otlp, section OTLP/HTTP)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vestibule import __version__
from vestibule.calls.audit_sinks.http import posted
from vestibule.calls.http import HttpServer

_INFO: Final = (9, "INFO")
_WARN: Final = (13, "WARN")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OtlpSink:
    """Posts each batch as one ExportLogsServiceRequest."""

    def __init__(self, server: HttpServer, path: str, token: Callable[[], str]) -> None:
        self._server = server
        self._path = path
        self._token = token

    async def send(self, lines: Sequence[bytes]) -> None:
        """Raises: VST2340, VST2341, VST8107."""
        body = json.dumps(request(lines), separators=(",", ":")).encode()
        await posted(self._server, self._path, self._token(), "application/json", body)


def request(lines: Sequence[bytes]) -> dict[str, Any]:
    """The request for a batch: the record whole as the body, its fields as attributes."""
    scope = {"name": "vestibule.audit", "version": __version__}
    logs = {"scope": scope, "logRecords": [_log(line) for line in lines]}
    resource = {"attributes": [_attribute("service.name", "vestibule-server")]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [logs]}]}


def _log(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    number, text = _INFO if record["outcome"] == "ok" else _WARN
    names = ("seq", "actor", "action", "subject", "outcome", "hash")
    since = datetime.fromisoformat(record["time"]) - _EPOCH
    return {
        "timeUnixNano": str(since // timedelta(microseconds=1) * 1000),
        "severityNumber": number,
        "severityText": text,
        "body": {"stringValue": line.decode()},
        "attributes": [_attribute(f"audit.{name}", record[name]) for name in names],
    }


def _attribute(key: str, value: str | int) -> dict[str, Any]:
    """64-bit numbers are strings in the JSON of protobuf."""
    return {
        "key": key,
        "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
    }
