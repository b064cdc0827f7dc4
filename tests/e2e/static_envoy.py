"""An Envoy with a configuration that is told once: for what one filter does, with nothing else around it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf import json_format
from google.protobuf.message import Message

from vestibule.proxy.binary import find_envoy

PATIENCE = 60.0


def as_json(message: Message) -> dict[str, Any]:
    """A resource as a bootstrap file has it."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class StaticEnvoy:
    """``with`` it; ``doors`` are the ports and sockets that have to be open before it is entered."""

    def __init__(
        self, directory: Path, bootstrap: Mapping[str, Any] | str, doors: Sequence[int | Path]
    ) -> None:
        self._directory = directory
        self._bootstrap = bootstrap
        self._doors = doors
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if isinstance(self._bootstrap, str):
            file = self._directory / "bootstrap.yaml"
            file.write_text(self._bootstrap)
        else:
            file = self._directory / "bootstrap.json"
            file.write_text(json.dumps(self._bootstrap))
        self._log = self._directory / "envoy.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(find_envoy()),
                    "-c",
                    str(file),
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "-l",
                    "error",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            for door in self._doors:
                self._wait_for(door)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_for(self, door: int | Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while not _is_open(door):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "the listener did not open"
            time.sleep(0.02)

    def _stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


def _is_open(door: int | Path) -> bool:
    family = socket.AF_UNIX if isinstance(door, Path) else socket.AF_INET
    with socket.socket(family) as sock:
        return sock.connect_ex(str(door) if isinstance(door, Path) else ("127.0.0.1", door)) == 0
