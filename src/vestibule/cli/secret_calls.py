"""How ``vestibule secret`` reaches the secret manager: as an operator by the server's private socket, or as a workload.

As a workload it is the API at ``--address``: through a sidecar (http), or with the SVID of this process (https).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from urllib.parse import quote, urlencode

import typer

from vestibule.calls.unix import unix_channel
from vestibule.cli.sockets import find_sockets
from vestibule.net.grpc import Client
from vestibule.sdk.secrets.answers import Ask, checked
from vestibule.sdk.secrets.client import AsyncSecrets
from vestibule.secrets import codes as _secrets_codes
from vestibule.secrets.dynamic import codes as _dynamic_codes
from vestibule.secrets.leases import codes as _lease_codes
from vestibule.secrets.seals import codes as _seal_codes
from vestibule.secrets.transit import codes as _transit_codes
from vestibule.secrets.versions import codes as _version_codes
from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SecretsAdmin"]
# Imported so that the catalogue knows the codes in the answers, with their advice.
CODES: Final = (_secrets_codes, _dynamic_codes, _lease_codes, _seal_codes, _transit_codes, _version_codes)

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="VESTIBULE_UPSTREAM_SECRETS",
        help="Ask as a workload: http://… of a sidecar, or https://… with this process's SVID. [default: as the "
        "operator, by the server's socket]",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer: 404 for what is not there, else what is in it."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> Mapping[str, Any]:
        """What Vault's envelope is around."""
        return self.document.get("data") or {}


class SecretCalls(Protocol):
    """Asks the API below /v1/."""

    async def __call__(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> Found:
        """``method`` may be LIST.  Raises: what is refused, with its code; VST2300, VST2407 (nobody answers)."""
        ...


@asynccontextmanager
async def secret_calls(server_socket: Path | None, address: str | None) -> AsyncIterator[SecretCalls]:
    """The socket that is named goes first.  Raises: VST9102, VST2406, VST2402."""
    if address and server_socket is None:
        async with AsyncSecrets(address) as client:
            yield _Workload(client)
        return
    channel = unix_channel(find_sockets(server=server_socket).existing_server())
    try:
        yield _Operator(Client(channel, SERVICE))
    finally:
        channel.close()


@asynccontextmanager
async def operator_client(server_socket: Path | None) -> AsyncIterator[Client]:
    """What only operators do.  Raises: VST9102."""
    channel = unix_channel(find_sockets(server=server_socket).existing_server())
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()


class _Operator:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> Found:
        sent = json.dumps(body).encode("utf-8") if body is not None else b""
        request = wire.SecretsRequest(method=method, path=path, query=query, body=sent)
        reply = await self._client.unary("Call", request)
        return Found(status=reply.status, document=json.loads(reply.body) if reply.body else {})


class _Workload:
    def __init__(self, client: AsyncSecrets) -> None:
        self._client = client

    async def __call__(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> Found:
        if method == "LIST":
            method, query = "GET", {**query, "list": "true"}
        asked = f"?{urlencode(query)}" if query else ""
        ask = Ask(
            method=method,
            target=f"/v1/{quote(path, safe='/')}{asked}",
            path=path,
            body=json.dumps(body).encode("utf-8") if body is not None else b"",
        )
        reply = await self._client.ask(ask)
        if reply.status == 404 and not (reply.document.get("errors") or ()):
            return Found(status=404, document=reply.document)
        checked(reply, path)
        return Found(status=reply.status, document=reply.document)
