"""Where commands find the server and the agent: one order of search for all of them.

1. the flag, or its environment variable; 2. a ``vestibule up`` that runs in this directory
(``./.vestibule``); 3. the runtime directory of an installed server or agent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.cli.codes import NO_SOCKET
from vestibule.cli.run_state import STATE_DIRECTORY, RunState
from vestibule.net.unix import check_path

SYSTEM_RUNTIME: Final = Path("/run/vestibule")
SERVER_SOCKET: Final = "server.sock"
AGENT_SOCKET: Final = "agent.sock"
ADMIN_SOCKET: Final = "agent-admin.sock"

ServerSocketOption = Annotated[
    Path | None,
    typer.Option("--server-socket", envvar="VESTIBULE_SERVER_SOCKET", help="The server's private socket."),
]
AgentSocketOption = Annotated[
    Path | None,
    typer.Option(
        "--agent-socket",
        envvar=["VESTIBULE_AGENT_SOCKET", "SPIFFE_ENDPOINT_SOCKET"],
        help="The agent's public socket (Workload API).",
    ),
]
AdminSocketOption = Annotated[
    Path | None,
    typer.Option("--admin-socket", envvar="VESTIBULE_ADMIN_SOCKET", help="The agent's private socket."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Where the server and the agent are, as far as anyone said.  Nothing is opened here."""

    server: Path
    agent: Path
    admin: Path
    run: RunState | None = None

    def existing_server(self) -> Path:
        """The server's private socket.  Raises: VST9102 when it is not there, VST2310 when it cannot be."""
        return _existing(self.server, "server", "--server-socket")

    def existing_agent(self) -> Path:
        """The agent's public socket.  Raises: VST9102 when it is not there, VST2310 when it cannot be."""
        return _existing(self.agent, "agent", "--agent-socket")

    def existing_admin(self) -> Path:
        """The agent's private socket.  Raises: VST9102 when it is not there, VST2310 when it cannot be."""
        return _existing(self.admin, "agent", "--admin-socket")


def find_sockets(
    *,
    server: Path | None = None,
    agent: Path | None = None,
    admin: Path | None = None,
    state: Path = STATE_DIRECTORY,
) -> Sockets:
    """Where the sockets are; what is given wins over what is found (the order stands at the top of this file)."""
    run = RunState.read(state)
    if run is not None and not run.is_running:
        run = None
    runtime = runtime_directory()
    return Sockets(
        server=_plain(server) or (run.server_socket if run else runtime / SERVER_SOCKET),
        agent=_plain(agent) or (run.agent_socket if run else runtime / AGENT_SOCKET),
        admin=_plain(admin) or (run.admin_socket if run else runtime / ADMIN_SOCKET),
        run=run,
    )


def runtime_directory() -> Path:
    """Where sockets lie unless told otherwise: ``/run/vestibule``, or the user's own runtime directory."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 or not own:
        return SYSTEM_RUNTIME
    private = Path(own) / "vestibule"
    # An ordinary user is usually a client of the machine's own agent.
    return private if private.is_dir() or not SYSTEM_RUNTIME.is_dir() else SYSTEM_RUNTIME


def _plain(path: Path | None) -> Path | None:
    """``SPIFFE_ENDPOINT_SOCKET`` is a URI (Workload Endpoint, section 4); ``Path`` has folded its slashes."""
    return path and Path(str(path).removeprefix("unix:"))


def _existing(path: Path, what: str, flag: str) -> Path:
    if path.exists():
        return path
    check_path(path)
    raise NO_SOCKET.error(
        f"no {what} socket at {path}",
        advice=f"Start it (vestibule up, or vestibule {what} run), run this where `vestibule up` runs, or name the "
        f"socket with {flag}.",
    )
