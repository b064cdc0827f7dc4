"""Where else audit records go: syslog, an HTTP server, a collector of OpenTelemetry.

A place is a URL: ``syslog:/dev/log``, ``syslog+tcp://HOST:PORT``, ``https://HOST/PATH``, ``otlp+https://HOST[:PORT]``;
with ``http`` instead only on loopback, for a collector on the same machine.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from vestibule.calls.audit_sinks.codes import SINK_UNKNOWN
from vestibule.calls.audit_sinks.http import HttpSink
from vestibule.calls.audit_sinks.otlp import OtlpSink
from vestibule.calls.audit_sinks.syslog import SyslogSink
from vestibule.calls.http import HttpServer

SECONDS: Final = 15.0
_PORTS: Final = {"http": 80, "https": 443}

Context = Callable[[], ssl.SSLContext]


def sink_at(place: str, web: Context, token: Callable[[], str]) -> HttpSink | OtlpSink | SyslogSink:
    """The sink that a URL means.  ``web`` gives the context that knows web servers' authorities, ``token`` a bearer
    token, or nothing.

    Raises: VST8106.
    """
    try:
        url = urlsplit(place)
        kind, _, transport = url.scheme.rpartition("+")
        if url.scheme == "syslog" and url.path.startswith("/") and not url.netloc:
            return SyslogSink(unix=Path(url.path))
        if url.scheme == "syslog+tcp" and url.hostname and url.port:
            return SyslogSink(host=url.hostname, port=url.port)
        if kind in ("", "otlp") and transport in _PORTS and _is_proper(url, transport):
            server = _server(url, transport, web)
            path = url.path + (f"?{url.query}" if url.query else "")
            return (
                OtlpSink(server, path or "/v1/logs", token) if kind else HttpSink(server, path or "/", token)
            )
    except ValueError as error:
        raise SINK_UNKNOWN.error(f"{shown(place)!r}: {error}") from error
    raise SINK_UNKNOWN.error(f"{shown(place)!r} is no place for audit records")


def shown(place: str) -> str:
    """A place as it may be told: without what may be a password or a token."""
    before, at, behind = place.partition("?")[0].rpartition("@")
    return f"{before.partition('//')[0]}//…@{behind}" if at else behind


def _is_proper(url: SplitResult, transport: str) -> bool:
    """Records, and tokens, go in the clear only to the same machine."""
    plain = not (url.username or url.password or url.fragment)
    return bool(url.hostname) and plain and (transport == "https" or _is_loopback(url.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server(url: SplitResult, transport: str, web: Context) -> HttpServer:
    assert url.hostname is not None
    tls = web if transport == "https" else None
    return HttpServer(host=url.hostname, port=url.port or _PORTS[transport], tls=tls, seconds=SECONDS)
