"""The running server or agent that a command names, over its private socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.descriptor import ServiceDescriptor

from vestibule.calls.unix import unix_channel
from vestibule.cli.sockets import find_sockets
from vestibule.net.grpc import Client


class Component(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """What can be asked."""

    SERVER = "server"
    AGENT = "agent"


ComponentArgument = Annotated[Component, typer.Argument(help="server, or the agent of this node.")]
TIMEOUT: Final = 5.0
"""Seconds to wait for an answer: it comes from this machine, from memory."""


@contextmanager
def component_client(
    component: Component,
    services: Mapping[Component, ServiceDescriptor],
    *,
    server: Path | None,
    admin: Path | None,
) -> Iterator[Client]:
    """A client of the component's service.  Raises: VST9102, VST2310 (no socket)."""
    sockets = find_sockets(server=server, admin=admin)
    path = sockets.existing_server() if component is Component.SERVER else sockets.existing_admin()
    channel = unix_channel(path)
    try:
        yield Client(channel, services[component])
    finally:
        channel.close()
