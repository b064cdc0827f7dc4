"""``vestibule entry``: registration entries."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import (
    PAGE,
    ServerCalls,
    check,
    errors_of,
    every_page,
    from_wire,
    instant,
    server_calls,
    to_wire,
)
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.identity.codes import UNKNOWN_PARENT
from vestibule.identity.names import AGENT_PREFIX, server_id
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2

ALREADY_EXISTS: Final = 6

SpiffeIdOption = Annotated[str | None, typer.Option("--spiffe-id", help="The identity.")]
ParentOption = Annotated[
    str | None, typer.Option("--parent-id", help="An agent, a node alias, or another entry's identity.")
]
SelectorOption = Annotated[
    list[str] | None, typer.Option("--selector", help="TYPE:VALUE; all must match. Repeatable.")
]
TtlOption = Annotated[str | None, typer.Option("--x509-svid-ttl", help="Such as 1h; 0s: the default.")]
DnsOption = Annotated[
    list[str] | None, typer.Option("--dns-name", help="A DNS name for the SVID. Repeatable.")
]
HintOption = Annotated[
    str | None, typer.Option("--hint", help="How the workload tells its identities apart.")
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires-in", help="Remove the entry after, such as 7d.")
]


def create(
    spiffe_id: Annotated[str, typer.Option("--spiffe-id", help="The identity.")],
    selector: Annotated[
        list[str], typer.Option("--selector", help="TYPE:VALUE; all must match. Repeatable.")
    ],
    parent_id: ParentOption = None,
    node: Annotated[
        bool, typer.Option("--node", help="Make a node alias: for every agent with these selectors.")
    ] = False,
    parent_to_come: Annotated[
        bool, typer.Option("--parent-to-come", help="The parent does not exist yet.")
    ] = False,
    x509_svid_ttl: TtlOption = None,
    dns_name: DnsOption = None,
    federates_with: Annotated[
        list[str] | None, typer.Option("--federates-with", help="A trust domain. Repeatable.")
    ] = None,
    hint: HintOption = None,
    expires_in: ExpiresOption = None,
    admin: Annotated[bool, typer.Option("--admin", help="May administer the server.")] = False,
    downstream: Annotated[bool, typer.Option("--downstream", help="Is a downstream server.")] = False,
    entry_id: Annotated[str, typer.Option("--entry-id", help="Chosen instead of generated.")] = "",
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create an entry: under its parent, whoever has all selectors gets the identity."""

    async def main() -> Exit:
        identity = SpiffeId.parse(spiffe_id)
        parent = _parent(identity.trust_domain, parent_id, node=node)
        fields = _fields(selector, x509_svid_ttl, dns_name, hint, expires_in)
        entry = types_pb2.Entry(
            id=entry_id,
            spiffe_id=to_wire(identity),
            parent_id=to_wire(parent),
            federates_with=federates_with or (),
            admin=admin,
            downstream=downstream,
            **fields,
        )
        async with server_calls(server_socket) as calls:
            if not parent_to_come:
                await _require_parent(calls, parent)
            request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
            result = (await calls.entries.unary("BatchCreateEntry", request)).results[0]
        existed = result.status.code == ALREADY_EXISTS
        if not existed:
            check(result.status)
        data = document(result.entry) | {"created": not existed}
        answer(output, "entry", data, lambda: _show_created(data))
        return Exit.FINDINGS if existed else Exit.FINE

    run(output, "entry", main)


def show(
    entry_id: Annotated[str | None, typer.Argument(metavar="ENTRY-ID")] = None,
    spiffe_id: SpiffeIdOption = None,
    parent_id: ParentOption = None,
    selector: SelectorOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one entry, or all that fit."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            if entry_id is not None:
                found = [await calls.entries.unary("GetEntry", entry_pb2.GetEntryRequest(id=entry_id))]
            else:
                found = await _find(calls, spiffe_id, parent_id, selector)
        data = [document(entry) for entry in found]
        answer(output, "entries", data, lambda: _show_all(data))
        return Exit.FINE

    run(output, "entries", main)


def update(
    entry_id: Annotated[str, typer.Argument(metavar="ENTRY-ID")],
    spiffe_id: SpiffeIdOption = None,
    parent_id: ParentOption = None,
    selector: SelectorOption = None,
    x509_svid_ttl: TtlOption = None,
    dns_name: DnsOption = None,
    federates_with: Annotated[
        list[str] | None, typer.Option("--federates-with", help="A trust domain. Repeatable.")
    ] = None,
    federates_with_nobody: Annotated[
        bool, typer.Option("--federates-with-nobody", help="Only the own trust domain is believed.")
    ] = False,
    hint: HintOption = None,
    expires_in: ExpiresOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change what is given; everything else stays."""

    async def main() -> Exit:
        fields = _fields(selector, x509_svid_ttl, dns_name, hint, expires_in)
        if spiffe_id is not None:
            fields["spiffe_id"] = to_wire(SpiffeId.parse(spiffe_id))
        if parent_id is not None:
            fields["parent_id"] = to_wire(SpiffeId.parse(parent_id))
        if federates_with or federates_with_nobody:
            if federates_with and federates_with_nobody:
                raise USAGE.error("an entry federates with somebody or with nobody")
            fields["federates_with"] = federates_with or ()
        if not fields:
            raise USAGE.error("there is nothing to change")
        request = entry_pb2.BatchUpdateEntryRequest(
            entries=[types_pb2.Entry(id=entry_id, **fields)],
            input_mask=types_pb2.EntryMask(**dict.fromkeys(fields, True)),
        )
        async with server_calls(server_socket) as calls:
            result = (await calls.entries.unary("BatchUpdateEntry", request)).results[0]
        check(result.status)
        data = document(result.entry)
        answer(output, "entry", data, lambda: _show_one(data))
        return Exit.FINE

    run(output, "entry", main)


def delete(
    entry_ids: Annotated[list[str], typer.Argument(metavar="ENTRY-ID")],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete entries; their SVIDs are withdrawn from workloads at once."""

    async def main() -> Exit:
        request = entry_pb2.BatchDeleteEntryRequest(ids=entry_ids)
        async with server_calls(server_socket) as calls:
            results = (await calls.entries.unary("BatchDeleteEntry", request)).results
        errors = [
            VestibuleError(error.code, f"{result.id}: {error.message}")
            for result in results
            for error in errors_of([result])
        ]
        deleted = [result.id for result in results if result.status.code == 0]
        answer(
            output,
            "entries-deleted",
            {"deleted": deleted},
            lambda: console.print(f"Deleted {len(deleted)} of {len(results)}"),
            errors=errors,
        )
        return Exit.REFUSED if errors else Exit.FINE

    run(output, "entries-deleted", main)


def count(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Count all entries."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            number = (await calls.entries.unary("CountEntries", entry_pb2.CountEntriesRequest())).count
        answer(output, "entry-count", {"count": number}, lambda: console.print(str(number)))
        return Exit.FINE

    run(output, "entry-count", main)


async def _find(
    calls: ServerCalls, spiffe_id: str | None, parent_id: str | None, selectors: list[str] | None
) -> list[Any]:
    wanted = entry_pb2.ListEntriesRequest.Filter()
    if spiffe_id is not None:
        wanted.by_spiffe_id.CopyFrom(to_wire(SpiffeId.parse(spiffe_id)))
    if parent_id is not None:
        wanted.by_parent_id.CopyFrom(to_wire(SpiffeId.parse(parent_id)))
    if selectors:
        wanted.by_selectors.CopyFrom(
            types_pb2.SelectorMatch(
                selectors=_selectors(selectors), match=types_pb2.SelectorMatch.MATCH_SUPERSET
            )
        )
    return await every_page(
        lambda token: calls.entries.unary(
            "ListEntries", entry_pb2.ListEntriesRequest(filter=wanted, page_size=PAGE, page_token=token)
        ),
        lambda page: page.entries,
    )


def _parent(trust_domain: TrustDomain, parent_id: str | None, *, node: bool) -> SpiffeId:
    if node == (parent_id is not None):
        raise USAGE.error("an entry has either --parent-id or --node")
    return server_id(trust_domain) if parent_id is None else SpiffeId.parse(parent_id)


async def _require_parent(calls: ServerCalls, parent: SpiffeId) -> None:
    """SPIRE's API takes any parent; a typing mistake there is silent, so it is caught here.  Raises: VST1301."""
    if parent == server_id(parent.trust_domain):
        return
    if parent.path.startswith(AGENT_PREFIX):
        agents = await calls.agents.unary("ListAgents", agent_pb2.ListAgentsRequest())
        known = {from_wire(agent.id) for agent in agents.agents}
    else:
        known = {from_wire(entry.spiffe_id) for entry in await _find(calls, str(parent), None, None)}
    if str(parent) not in known:
        raise UNKNOWN_PARENT.error(f"{parent} is no agent, and no entry's identity")


def _fields(
    selectors: list[str] | None,
    ttl: str | None,
    dns_names: list[str] | None,
    hint: str | None,
    expires_in: str | None,
) -> dict[str, Any]:
    """The fields of a message that were given."""
    fields: dict[str, Any] = {}
    if selectors:
        fields["selectors"] = _selectors(selectors)
    if ttl is not None:
        fields["x509_svid_ttl"] = int(parse_duration(ttl).total_seconds())
    if dns_names:
        fields["dns_names"] = dns_names
    if hint is not None:
        fields["hint"] = hint
    if expires_in is not None:
        fields["expires_at"] = int(time.time() + parse_duration(expires_in).total_seconds())
    return fields


def _selectors(texts: list[str]) -> list[types_pb2.Selector]:
    parsed = [Selector.parse(text) for text in texts]
    return [types_pb2.Selector(type=each.type, value=each.value) for each in parsed]


def document(entry: types_pb2.Entry) -> dict[str, Any]:
    """An entry as the envelope carries it; TTLs in seconds, ``None`` for the server's default."""
    return {
        "id": entry.id,
        "spiffe_id": from_wire(entry.spiffe_id),
        "parent_id": from_wire(entry.parent_id),
        "selectors": [f"{each.type}:{each.value}" for each in entry.selectors],
        "x509_svid_ttl": entry.x509_svid_ttl or None,
        "jwt_svid_ttl": entry.jwt_svid_ttl or None,
        "federates_with": list(entry.federates_with),
        "dns_names": list(entry.dns_names),
        "admin": entry.admin,
        "downstream": entry.downstream,
        "hint": entry.hint or None,
        "revision": entry.revision_number,
        "created_at": instant(entry.created_at),
        "expires_at": instant(entry.expires_at),
    }


def _show_created(data: dict[str, Any]) -> None:
    if not data["created"]:
        console.print("[yellow]A similar entry exists already:[/]")
    _show_one(data)


def _show_all(data: list[dict[str, Any]]) -> None:
    for entry in data:
        _show_one(entry)
        console.print()
    console.print(f"Found {len(data)} {'entry' if len(data) == 1 else 'entries'}")


def _show_one(data: dict[str, Any]) -> None:
    for name, value in data.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        if name != "created" and shown not in (None, "", False):
            console.print(f"{name.replace('_', ' '):<15} {escape(str(shown))}")
