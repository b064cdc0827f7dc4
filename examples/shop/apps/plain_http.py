"""A little HTTP server and client, of the standard library: no TLS, no identity, no policy anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, object]


def call(method: str, url: str, request_id: str | None = None, body: object = None) -> Answer:
    """Call another service by its name; urllib finds the proxy in HTTP_PROXY or http_proxy by itself."""
    headers = {"x-request-id": request_id} if request_id else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, _content(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _content(error.read())
    except OSError as error:
        return 502, {"error": str(error)}


def serve(name: str, answer: Callable[[str, str, Any], Answer]) -> None:
    """Answer ``answer(method, path, headers)`` as JSON on 127.0.0.1:$PORT, for ever."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keep-alive
        disable_nagle_algorithm = True
        wbufsize = -1  # headers and body leave in one packet

        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            ready = path == "/healthz"
            status, body = (200, {"ok": name}) if ready else answer(self.command, path, self.headers)
            content = json.dumps(body).encode() + b"\n"
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass  # the sidecar logs every request, with both identities

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with contextlib.suppress(KeyboardInterrupt):
        Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


def _content(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
