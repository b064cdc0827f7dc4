"""The operator's calls over the server's private socket, with SPIRE's own APIs, for the administrative commands."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from grpclib.const import Status

from vestibule.calls import codes as _calls_codes
from vestibule.calls.http import codes as _http_codes
from vestibule.calls.unix import unix_channel
from vestibule.cli.remote_server import remote_address, remote_channel
from vestibule.cli.sockets import find_sockets
from vestibule.errors import CATALOGUE, VestibuleError
from vestibule.identity import codes as _identity_codes
from vestibule.net.codes import REMOTE_REFUSED
from vestibule.net.grpc import Client
from vestibule.pki import codes as _pki_codes
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.spiffe import codes as _spiffe_codes
from vestibule.store import codes as _store_codes
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, trustdomain_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2, federation_pb2

PAGE: Final = 500
# Imported so that the catalogue knows the codes in the server's answers, with their advice.
CODES: Final = (_identity_codes, _pki_codes, _spiffe_codes, _store_codes, _calls_codes, _http_codes)
_CODED: Final = re.compile(r"(VST[0-9]{4}) (.*)", re.DOTALL)


class ServerCalls:
    """Clients of the services of the server's private socket."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.agents = Client(self.channel, agent_pb2.DESCRIPTOR.services_by_name["Agent"])
        self.bundles = Client(self.channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
        self.entries = Client(self.channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        self.domains = Client(self.channel, trustdomain_pb2.DESCRIPTOR.services_by_name["TrustDomain"])
        federation = federation_pb2.DESCRIPTOR.services_by_name["FederationAdmin"]
        self.federation = Client(self.channel, federation)
        self.registered = Client(self.channel, entries_pb2.DESCRIPTOR.services_by_name["Entries"])


@asynccontextmanager
async def server_calls(socket: Path | None) -> AsyncIterator[ServerCalls]:
    """The calls, on the socket that is named, or the port that the environment names, or the socket that is found.

    Raises: VST9102, VST2300, and what ``remote_channel`` raises.
    """
    if socket is None and (address := remote_address()) is not None:
        calls = ServerCalls(await remote_channel(address))
    else:
        calls = ServerCalls(unix_channel(find_sockets(server=socket).existing_server()))
    try:
        yield calls
    finally:
        calls.channel.close()


async def every_page(ask: Callable[[str], Any], items: Callable[[Any], Iterable[Any]]) -> list[Any]:
    """All items of a listing; ``ask`` takes a page token and returns the awaitable answer."""
    found: list[Any] = []
    token = ""
    while True:
        answer = await ask(token)
        found += items(answer)
        token = answer.next_page_token
        if not token:
            return found


def check(status: types_pb2.Status) -> None:
    """Raises: the error that one item of a batch was answered with."""
    if status.code == Status.OK.value:
        return
    coded = _CODED.fullmatch(status.message)
    known = CATALOGUE.get(coded[1]) if coded else None
    if coded and known:
        raise known.error(coded[2])
    raise REMOTE_REFUSED.error(status.message)


def errors_of(results: Iterable[Any]) -> Iterator[VestibuleError]:
    """The errors among the results of a batch."""
    for result in results:
        try:
            check(result.status)
        except VestibuleError as error:
            yield error


def to_wire(spiffe_id: SpiffeId) -> types_pb2.SPIFFEID:
    """An ID as SPIRE's messages hold it."""
    return types_pb2.SPIFFEID(trust_domain=str(spiffe_id.trust_domain), path=spiffe_id.path)


def from_wire(message: types_pb2.SPIFFEID) -> str:
    """An ID as people read it."""
    return f"{TrustDomain.parse(message.trust_domain).id}{message.path}"


def instant(seconds: int) -> str | None:
    """Unix seconds as people and programs read them; none for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
