"""The note that a running ``vestibule up`` leaves in its state directory, so that other commands find it.

It names sockets and files, never their contents.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from vestibule.processes import procfs

STATE_DIRECTORY: Final = Path(".vestibule")
_FILE: Final = "up.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One run.  ``pid`` and ``start_time`` (field 22 of ``/proc/PID/stat``) are those of ``vestibule up``."""

    pid: int
    start_time: int
    intent: Path
    runtime: Path
    server_socket: Path
    agent_socket: Path
    admin_socket: Path
    access_log: Path
    trust_bundle: Path
    server_address: str
    health_address: str
    secrets_address: str = ""
    tokens_address: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the process that wrote this still runs: a process id alone may have been given away since."""
        return procfs.is_running(self.pid, self.start_time)

    def write(self, state_directory: Path) -> None:
        """Leave the note; a reader sees the old one or the new one, never half of it."""
        partial = state_directory / f"{_FILE}.partial"
        document = {
            key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()
        }
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        partial.replace(state_directory / _FILE)

    @classmethod
    def read(cls, state_directory: Path) -> RunState | None:
        """The note in a state directory; None where there is none, none that can be read, or somebody else's.

        Commands look into the current directory.  In one where others can write, they must not be led to a
        stranger's sockets.
        """
        try:
            with (state_directory / _FILE).open(encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():
                    return None
                document = json.load(file)
            paths = (
                "intent",
                "runtime",
                "server_socket",
                "agent_socket",
                "admin_socket",
                "access_log",
                "trust_bundle",
            )
            return cls(**{**document, **{name: Path(document[name]) for name in paths}})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def forget(state_directory: Path) -> None:
        """Remove the note: the run is over."""
        (state_directory / _FILE).unlink(missing_ok=True)
