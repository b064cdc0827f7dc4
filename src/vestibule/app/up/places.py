"""Where a run keeps things: state under one directory, sockets in a short one.

A run owns its state directory by a lock.  What a killed run left behind (processes, sockets) is ended and
removed before anything new is made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.app.sidecar_home import clear_up, remove_filters
from vestibule.app.up.codes import ALREADY_UP, NO_RUNTIME_DIRECTORY
from vestibule.cli.run_state import RunState
from vestibule.errors import VestibuleError
from vestibule.net.unix import check_path
from vestibule.processes import Ledger, private_directory
from vestibule.processes.codes import DIRECTORY_IN_USE

ONCE: Final = "once"
PREFIX: Final = "vestibule-"
_LEDGER: Final = "processes"
_SIDECARS: Final = "sc"
"""Below it, each sidecar keeps its sockets and its own ledger."""
_LONGEST: Final = Path(_SIDECARS, "01234567", "upstreams.sock")
"""As long as any socket's path below the runtime directory gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories of one run."""

    state: Path
    runtime: Path

    @property
    def server_data(self) -> Path:
        return self.state / "server"

    @property
    def agent_data(self) -> Path:
        return self.state / "agent"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def trust_bundle(self) -> Path:
        return self.state / "trust-bundle.pem"

    @property
    def intent_copy(self) -> Path:
        return self.state / "intent"

    @property
    def server_socket(self) -> Path:
        return self.runtime / "server.sock"

    @property
    def agent_socket(self) -> Path:
        return self.runtime / "agent.sock"

    @property
    def admin_socket(self) -> Path:
        return self.runtime / "agent-admin.sock"


class Tenancy:
    """The right to a state directory: taken, cleaned of what a killed run left, and given back."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.ledger = Ledger(state / _LEDGER)

    def take(self, *, fresh: bool = False) -> Places:
        """Own the directory and make it ready for a run; ``fresh`` forgets all that earlier runs kept.

        Raises: VST7302, VST7303, VST7003.
        """
        private_directory(self._state)
        before = RunState.read(self._state)
        try:
            self.ledger.open()
        except VestibuleError as error:
            if error.code is not DIRECTORY_IN_USE:
                raise
            owner = f" (process {before.pid})" if before is not None else ""
            raise ALREADY_UP.error(
                f"another `vestibule up`{owner} runs with the state in {self._state}"
            ) from error
        self._clean_up(before)
        places = Places(state=self._state, runtime=_make_runtime())
        if fresh:
            self._forget(places)
            shutil.rmtree(places.logs, ignore_errors=True)
        private_directory(places.logs)
        return places

    def give_back(self, places: Places, *, forget: bool = False) -> None:
        """Leave nothing behind but state and logs; with ``forget``, only logs."""
        RunState.forget(self._state)
        shutil.rmtree(places.runtime, ignore_errors=True)
        if forget:
            self._forget(places)
        self.ledger.close(remove=True)

    def clean_up_quietly(self) -> None:
        """If a run with this state was killed, end and remove what it left; one that still runs is left alone."""
        before = RunState.read(self._state)
        if before is not None and not before.is_running:
            with contextlib.suppress(VestibuleError):
                self.give_back(self.take())

    def _clean_up(self, before: RunState | None) -> None:
        # The ledger just ended the killed run's own children; theirs stand in ledgers of their own.
        if before is not None and _is_ours(before.runtime):
            clear_up(before.runtime, before.runtime / _SIDECARS)
            remove_filters(before.runtime)
            shutil.rmtree(before.runtime, ignore_errors=True)
        RunState.forget(self._state)

    def _forget(self, places: Places) -> None:
        for each in (places.server_data, places.agent_data, places.intent_copy):
            shutil.rmtree(each, ignore_errors=True)
        places.trust_bundle.unlink(missing_ok=True)


def _make_runtime() -> Path:
    """A new private directory whose sockets have paths short enough (107 bytes)."""
    for base in _bases():
        runtime = base / f"{PREFIX}{secrets.token_hex(4)}"
        try:
            check_path(runtime / _LONGEST)
            runtime.mkdir(mode=0o700)
            return private_directory(runtime)
        except (OSError, VestibuleError):
            continue
    tried = ", ".join(map(str, _bases()))
    raise NO_RUNTIME_DIRECTORY.error(f"no directory for sockets can be made in {tried}")


def _bases() -> tuple[Path, ...]:
    own = os.environ.get("XDG_RUNTIME_DIR")
    shared = Path("/tmp")  # noqa: S108 - a directory of random name and mode 0700 is made in it
    return (Path(own), shared) if own else (shared,)


def _is_ours(runtime: Path) -> bool:
    """Whether the directory named in a note is one that a run made; notes are files, and files can lie."""
    with contextlib.suppress(OSError, VestibuleError):
        return (
            runtime.name.startswith(PREFIX)
            and runtime.parent in _bases()
            and runtime.is_dir()
            and private_directory(runtime) == runtime
        )
    return False
