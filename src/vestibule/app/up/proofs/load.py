"""Continuous load on one edge, as an app with a few keep-alive connections makes it; every failure is kept."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

from vestibule.app.up.dialling import Connection, NoAnswer, dial
from vestibule.app.up.edges import Request
from vestibule.records import Address

CONNECTIONS: Final = 4
PAUSE: Final = 0.005
"""Seconds between two requests of a connection: load, but not a benchmark."""


class Load:
    """Runs between ``with`` and its end.  ``succeeded`` counts answers of success, ``failed`` the others by text."""

    def __init__(self, address: Address, host: str, request: Request) -> None:
        self._address = address
        self._host = host
        self._request = request
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"load-{number}", daemon=True)
            for number in range(CONNECTIONS)
        ]
        self.succeeded = 0
        self.failed: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with Connection(dial(self._address)) as connection:
                    self._use(connection)
            except NoAnswer as error:
                self._fail(str(error))

    def _use(self, connection: Connection) -> None:
        while not self._over.is_set():
            answer = connection.ask(self._host, self._request)
            if answer.ok:
                with self._lock:
                    self.succeeded += 1
            else:
                self._fail(str(answer))
            if answer.headers.get("connection", "").lower() == "close":
                # The proxy's polite way to end a connection: no request was lost.
                return
            time.sleep(PAUSE)

    def _fail(self, what: str) -> None:
        with self._lock:
            self.failed[what] += 1
        time.sleep(PAUSE)
