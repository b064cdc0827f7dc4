"""How ``vestibule oauth`` reaches the token service: as a workload, or as an operator by the private socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.calls.unix import unix_channel
from vestibule.cli.sockets import find_sockets
from vestibule.doors.oauth import codes as _door_codes
from vestibule.net.grpc import Client
from vestibule.sdk.oauth.addresses import VARIABLE, TokensAddress
from vestibule.sdk.oauth.client import AsyncTokens
from vestibule.tokens import codes as _tokens_codes
from vestibule.wire.gen.vestibule.admin.v1 import tokens_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["TokensAdmin"]
# Imported so that the catalogue knows the codes in the answers, with their advice.
CODES: Final = (_door_codes, _tokens_codes)

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        envvar=VARIABLE,
        help="The token service: http://… of a sidecar, or https://… with this process's SVID.",
    ),
]
IssuerOption = Annotated[
    str,
    typer.Option(
        "--issuer",
        metavar="URL",
        help="Prove who asks by a JWT-SVID for this issuer, where no certificate can be shown.",
    ),
]


@asynccontextmanager
async def workload(
    address: str | None, agent_socket: Path | None = None, issuer: str = ""
) -> AsyncIterator[AsyncTokens]:
    """As whom the sidecar, or the Workload API, knows this process.  Raises: VST6120, VST9102, VST2402."""
    api = None
    if issuer or TokensAddress.find(address).shows_svid:
        api = f"unix://{find_sockets(agent=agent_socket).existing_agent().absolute()}"
    async with AsyncTokens(address, issuer=issuer, workload_api=api) as tokens:
        yield tokens


@asynccontextmanager
async def operator(server_socket: Path | None) -> AsyncIterator[Client]:
    """Raises: VST9102."""
    channel = unix_channel(find_sockets(server=server_socket).existing_server())
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()
