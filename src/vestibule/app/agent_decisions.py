"""The agent's decision log, put together as its settings ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from vestibule import __version__
from vestibule.app.codes import INVALID_SETTING
from vestibule.calls.http import HttpServer
from vestibule.calls.http.tls import client_context
from vestibule.errors import VestibuleError
from vestibule.keys.files import read_private
from vestibule.observe.decision_files import DecisionFile, DecisionStream
from vestibule.observe.decision_push import DecisionPush, Send
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.decisions import DecisionLog, DecisionSink

LONGEST_TOKEN: Final = 16 * 1024
PATIENCE: Final = 15.0


class Decisions:
    """The log and its sinks."""

    def __init__(
        self, settings: DecisionLogSettings, data_dir: Path, commit_of: Callable[[str], str]
    ) -> None:
        self.file: DecisionFile | None = None
        self.stream: DecisionStream | None = None
        self.push: DecisionPush | None = None
        if settings.file is not None:
            self.file = DecisionFile(
                data_dir / settings.file, file_bytes=settings.file_size, files_kept=settings.files_kept
            )
        if settings.stdout:
            self.stream = DecisionStream()
        if settings.url:
            self.push = DecisionPush(_sending(settings))
        sinks: list[DecisionSink] = [each for each in (self.file, self.stream, self.push) if each is not None]
        self.log = DecisionLog(settings, sinks, commit_of=commit_of)

    def work(self) -> Iterator[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        """What goes on, by name."""
        for name, sink in (("file", self.file), ("stdout", self.stream), ("push", self.push)):
            if sink is not None:
                yield f"decisions-{name}", sink.run

    @property
    def problem(self) -> VestibuleError | None:
        """Why decisions wait, while they do."""
        return self.file.problem if self.file is not None else None

    @property
    def dropped(self) -> dict[str, float]:
        """Decisions that found no room, by sink."""
        sinks = {"file": self.file, "stdout": self.stream, "push": self.push}
        return {name: 0 if sink is None else sink.dropped for name, sink in sinks.items()}

    @property
    def refused(self) -> int:
        """Decisions that the collector refused for good."""
        return 0 if self.push is None else self.push.refused

    @property
    def waiting(self) -> int:
        """Decisions that the collector does not have yet."""
        return 0 if self.push is None else self.push.waiting


def _sending(settings: DecisionLogSettings) -> Send:
    url = urlsplit(settings.url)
    is_tls = url.scheme == "https"
    server = HttpServer(
        host=url.hostname or "",
        port=url.port or (443 if is_tls else 80),
        tls=(lambda: client_context(settings.ca_file)) if is_tls else None,
        seconds=PATIENCE,
    )
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")

    async def send(body: bytes) -> int:
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "User-Agent": f"vestibule/{__version__}",
        }
        if settings.bearer_token_file is not None:
            # Read each time: whoever renews it replaces the file.
            headers["Authorization"] = f"Bearer {await asyncio.to_thread(_token, settings.bearer_token_file)}"
        return (await server("POST", target, headers=headers, body=body)).status

    return send


def _token(path: Path) -> str:
    try:
        token = read_private(path, LONGEST_TOKEN).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise INVALID_SETTING.error(f"the token of the decision log cannot be read: {error}") from error
    if not token or not token.isprintable():
        raise INVALID_SETTING.error(f"{path} holds no token")
    return token
