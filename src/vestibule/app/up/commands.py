"""How the parts of a mesh are started: each the same program, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vestibule.app.up.committed import Committed
from vestibule.app.up.places import Places
from vestibule.app.up.plan import InstancePlan, command_of
from vestibule.processes import Command

HOST: Final = "127.0.0.1"
_OURS: Final = ("VESTIBULE_", "SPIFFE_ENDPOINT_SOCKET")


def program(*arguments: str) -> tuple[str, ...]:
    """Vestibule itself, by the interpreter that runs us.  ``-P`` keeps files in the current directory from
    posing as modules."""
    return (sys.executable, "-P", "-m", "vestibule", *arguments)


def server(
    places: Places,
    *,
    trust_domain: str,
    intent: Path | Committed,
    port: int,
    health_port: int,
    secrets_port: int,
    tokens_port: int,
    chosen: str | None = None,
) -> Command:
    """The server, on loopback ports of its own; ``chosen`` is one of the intent's environments."""
    return Command(
        argv=program(
            *("server", "run"),
            *("--trust-domain", trust_domain),
            *("--data-dir", str(places.server_data)),
            *("--bind", f"{HOST}:{port}"),
            *("--health", f"{HOST}:{health_port}"),
            # On one machine, whoever has the state has the key beside it as well.
            *("--secrets-seal", "file"),
            *("--secrets", f"{HOST}:{secrets_port}"),
            "--tokens",
            *("--tokens-bind", f"{HOST}:{tokens_port}"),
            # Who tries out how keys change does not wait for verifiers elsewhere.
            *("--tokens-key-publication", "10s"),
            # Whoever tries logins out has the provider beside everything else.
            "--issuers-permit-local",
            *("--socket", str(places.server_socket)),
            *_source(intent),
            *(("--environment", chosen) if chosen else ()),
        ),
        env=environment(),
    )


def _source(intent: Path | Committed) -> tuple[str, ...]:
    if isinstance(intent, Path):
        return ("--intent", str(intent))
    folder = ("--intent-git-directory", intent.folder) if intent.folder else ()
    return ("--intent-git", str(intent.repository), "--intent-git-ref", intent.branch, *folder)


def agent(
    places: Places,
    *,
    trust_domain: str,
    server_port: int,
    supervisor: int,
    bundle: int,
    token: int,
    locality: str = "",
) -> Command:
    """The agent.  The three descriptors are handed over: our end of supervision, and what it joins with."""
    return Command(
        argv=program(
            *("agent", "run"),
            *("--trust-domain", trust_domain),
            *("--data-dir", str(places.agent_data)),
            *("--server", f"{HOST}:{server_port}"),
            *("--socket", str(places.agent_socket)),
            *("--admin-socket", str(places.admin_socket)),
            *("--trust-bundle", f"/dev/fd/{bundle}"),
            *("--join-token-file", f"/dev/fd/{token}"),
            *("--supervisor-fd", str(supervisor)),
            *(("--locality", locality) if locality else ()),
        ),
        env=environment(),
        hand_over=(supervisor, bundle, token),
    )


def sidecar(places: Places, instance: InstancePlan, directory: Path, key: int) -> Command:
    """A sidecar with its app, or a gateway.  ``key`` is the descriptor from which it reads its supervisor key."""
    app = instance.app
    what: tuple[str, ...] = ("--gateway", instance.service)
    command: tuple[str, ...] = ()
    if app is not None:
        what = ("--service", app.service, "--version", app.version)
        command = ("--", *command_of(app))
    return Command(
        argv=program(
            "sidecar",
            *what,
            *("--agent-socket", str(places.agent_socket)),
            *("--run-dir", str(places.runtime)),
            *("--log-dir", str(places.logs)),
            *("--drain", "2"),
            *(("--boundary", instance.boundary.value) if app is not None else ()),
            *("--supervisor-fd", str(key)),
            *command,
        ),
        env=environment(app.env if app is not None else None),
        cwd=directory,
        hand_over=(key,),
    )


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without variables that would speak to a child in our name, and with ``more``.

    Output is unbuffered, so that a log tells what happened before a crash.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **(more or {})}
