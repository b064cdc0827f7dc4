"""Payments as the tour needs it: writes down what arrives, and fails, dawdles and falls ill when it is told to.

``PLACE`` says which instance it is; the tour reads ``seen-PLACE.jsonl`` and makes it ill with a file ``ill-PLACE``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLACE = os.environ["PLACE"]
HERE = Path(__file__).resolve().parent
ILL = HERE / f"ill-{PLACE}"
SLOW = 2.0
STRUGGLING = 0.3


class Book:
    """What arrived.  A request whose ID was here before is another try of the same call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._tries_again = 0
        self._file = (HERE / f"seen-{PLACE}.jsonl").open("a", buffering=1)

    def arrives(self, path: str, request_id: str, caller: str) -> bool:
        """Write it down; whether it is another try."""
        with self._lock:
            again = request_id in self._known
            self._known.add(request_id)
            self._tries_again += again
            line = {"path": path, "id": request_id, "caller": caller, "retries_at_once": self._tries_again}
            self._file.write(json.dumps(line) + "\n")
            return again

    def leaves(self, again: bool) -> None:
        with self._lock:
            self._tries_again -= again


BOOK = Book()


class Payments(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(503 if ILL.exists() else 200)
            return
        caller = (self.headers.get("x-forwarded-client-cert") or "").rpartition("URI=")[2]
        again = BOOK.arrives(self.path, self.headers.get("x-request-id") or "", caller)
        try:
            status = self._status(again)
        finally:
            # Before the answer, after which the caller may already try again.
            BOOK.leaves(again)
        self._answer(status)

    def _status(self, again: bool) -> int:
        if self.path.startswith("/v1/slow"):
            time.sleep(SLOW)
        elif self.path.startswith("/v1/down"):
            time.sleep(STRUGGLING)
            return 503
        elif self.path.startswith("/v1/broken"):
            return 503
        elif self.path.startswith("/v1/flaky/"):
            return 503 if int(self.path.rpartition("/")[2]) % 3 == 0 and not again else 200
        return 200

    def _answer(self, status: int) -> None:
        content = json.dumps({"place": PLACE}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Payments).serve_forever()
