"""`vestibule up` under measurement: started, looked into, stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import _processes

WITHIN = 60.0


class Mesh:
    """``vestibule up DIR`` in a process of its own, for the time of a ``with`` block.

    ``began`` and ``announced`` are ``time.monotonic()`` at its start and when it said that everything runs.
    """

    def __init__(self, directory: Path, state: Path) -> None:
        self._command = [sys.executable, "-m", "vestibule", "up", str(directory), "--output", "json"]
        self._command += ["--state", str(state)]
        self.state = state
        self.said: dict[str, Any] = {}
        self.began = self.announced = 0.0

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._complaints: list[bytes] = []
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()
        watchdog = threading.Timer(WITHIN, self._process.kill)
        watchdog.start()
        try:
            self.said = _envelope(self._process.stdout)["data"]
        except ValueError:
            self.__exit__(None, None, None)
            text = b"".join(self._complaints).decode(errors="replace")
            raise SystemExit(f"`vestibule up` did not start (logs: {self.state}/logs):\n{text}") from None
        finally:
            watchdog.cancel()
        self.announced = time.monotonic()
        self._pids = _processes.descendants(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(5)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    @property
    def agent(self) -> int:
        return next(pid for pid in self._pids if {"agent", "run"} <= set(_processes.command(pid)))

    @property
    def server(self) -> int:
        return next(pid for pid in self._pids if {"server", "run"} <= set(_processes.command(pid)))

    @property
    def envoys(self) -> dict[int, Path]:
        """The sidecars' Envoys, each with its admin socket."""
        found = {}
        for pid in self._pids:
            words = _processes.command(pid)
            if "--config-path" in words and words[words.index("--config-path") + 1].endswith(
                "bootstrap.json"
            ):
                found[pid] = Path(words[words.index("--config-path") + 1]).with_name("admin.sock")
        return found

    def sidecar(self, service: str) -> int:
        """The process of a service's Envoy; of several instances one."""
        for pid, path in self.envoys.items():
            if json.loads(_asked(path, "/server_info"))["node"]["cluster"] == service:
                return pid
        raise SystemExit(f"{service} has no sidecar")

    def egress(self, service: str) -> int:
        """The loopback port of a service's way out."""
        return int(self.said["egress"][service].rpartition(":")[2])

    def stats(self, pattern: str) -> dict[str, int]:
        """Envoys' counters whose names match, summed over all Envoys."""
        total: dict[str, int] = {}
        for path in self.envoys.values():
            for name, value in _admin(path, f"/stats?filter={pattern}&format=text").items():
                total[name] = total.get(name, 0) + value
        return total

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._complaints.append(line)
            sys.stderr.buffer.write(line)


def _envelope(stream: IO[bytes]) -> dict[str, Any]:
    """The first JSON document.  Raises: ValueError if the stream ends without one."""
    text = ""
    for line in stream:
        text += line.decode()
        if line.rstrip() == b"}":
            document = json.loads(text)
            assert isinstance(document, dict)
            return document
    raise ValueError("no answer")


def _admin(path: Path, request: str) -> dict[str, int]:
    pairs = (line.partition(": ") for line in _asked(path, request).splitlines())
    return {name: int(value) for name, _, value in pairs if value.isdigit()}


def _asked(path: Path, request: str) -> str:
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    with closing(connection):
        connection.sock.settimeout(5)
        connection.sock.connect(os.fspath(path))
        connection.request("GET", request)
        answer = connection.getresponse()
        text = answer.read().decode()
    if answer.status != http.HTTPStatus.OK:
        raise SystemExit(f"an Envoy answers {answer.status} to {request}")
    return text
