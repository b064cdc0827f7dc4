"""What a running sidecar can be asked to do: to replace its Envoy.  A private socket, one line of JSON each way.

SIGHUP asks for the same, with the binary that runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from pathlib import Path
from typing import Any, Final, Protocol

from vestibule.errors import CATALOGUE, VestibuleError
from vestibule.net.unix import listen_unix
from vestibule.proxy.binary import find_envoy
from vestibule.proxy.codes import NOT_A_SIDECAR
from vestibule.proxy.envoy import Envoy
from vestibule.proxy.layout import Layout

SOCKET: Final = "control.sock"
_LONGEST: Final = 65536
_PATIENCE: Final = 10.0
_log = logging.getLogger(__name__)


class Controlled(Protocol):
    """A sidecar, as far as it is controlled from outside."""

    envoy: Envoy
    layout: Layout

    @property
    def service(self) -> str: ...


class Control:
    """``run`` answers until cancelled."""

    def __init__(self, directory: Path, sidecar: Controlled) -> None:
        self._path = directory / SOCKET
        self._sidecar = sidecar
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        listener = listen_unix(self._path, 0o600)
        loop.add_signal_handler(signal.SIGHUP, self._on_signal)
        server = await asyncio.start_unix_server(self._talk, sock=listener.sock, limit=_LONGEST)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            server.close()
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_signal(self) -> None:
        self._keep(asyncio.create_task(self._replace(None), name="replace envoy"))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, envoy: str | None) -> dict[str, Any]:
        try:
            version = await self._sidecar.envoy.replace(find_envoy(Path(envoy)) if envoy else None)
        except VestibuleError as error:
            _log.error("Envoy is not replaced: %s (%s)", error, error.advice)
            return {"code": error.code.code, "message": error.message, "advice": error.advice}
        _log.warning("Envoy %s has taken over", version)
        return {
            "service": self._sidecar.service,
            "instance": self._sidecar.layout.instance_id,
            "version": version,
            "envoy": str(self._sidecar.envoy.binary),
        }

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._keep(task)
        try:
            async with asyncio.timeout(_PATIENCE):
                asked = json.loads(await reader.readline())
            answer = await self._answer(asked)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            _log.info("a question on the control socket was not one: %s", error)
        finally:
            writer.close()

    async def _answer(self, asked: Any) -> dict[str, Any]:
        if not isinstance(asked, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 - of what was read
        if asked.get("do") == "replace-envoy":
            return await self._replace(asked.get("envoy"))
        return {"service": self._sidecar.service}


async def ask(directory: Path, service: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask every sidecar of the service that runs in this run directory, one after the other.

    Raises: VST7106 when there is none; what the first one that refuses says.
    """
    answers = []
    for socket in sorted((directory / "sc").glob(f"*/{SOCKET}")):
        try:
            if (await _exchange(socket, {})).get("service") == service:
                answers.append(_checked(await _exchange(socket, question)))
        except OSError:
            continue
    if not answers:
        raise NOT_A_SIDECAR.error(f"no sidecar of {service} answers in {directory}")
    return answers


async def _exchange(socket: Path, question: dict[str, Any]) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=_LONGEST)
    try:
        writer.write(json.dumps(question).encode() + b"\n")
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("no answer")
        answer: dict[str, Any] = json.loads(line)
        return answer
    finally:
        writer.close()


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if (code := CATALOGUE.get(answer.get("code", ""))) is not None:
        raise code.error(answer["message"], advice=answer["advice"])
    return answer
