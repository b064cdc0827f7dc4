"""What the commands of ``vestibule entry`` ask of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.entry_documents import document, documents, placed, registered
from vestibule.cli.entry_options import MatchOn
from vestibule.cli.output import Exit, Output, answer, complaints, console, sentence
from vestibule.cli.server_calls import PAGE, ServerCalls, errors_of, every_page, from_wire, server_calls
from vestibule.errors import VestibuleError
from vestibule.identity.codes import UNKNOWN_PARENT
from vestibule.identity.names import AGENT_PREFIX, server_id
from vestibule.spiffe import Selector, SpiffeId
from vestibule.wire.gen.spire import agent_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2 as wire

ALREADY_EXISTS: Final = 6
BATCH: Final = 200


async def send(
    calls: ServerCalls, method: str, entries: Sequence[wire.RegisteredEntry], fields: Sequence[str] = ()
) -> list[Any]:
    """Create or update entries, some at a time, or plan them all; the results, in their order."""
    if method == "Plan":  # they are compared with each other, too
        return list(
            (await calls.registered.unary(method, wire.CreateRegisteredRequest(entries=entries))).results
        )
    results: list[Any] = []
    for start in range(0, len(entries), BATCH):
        batch = entries[start : start + BATCH]
        request = (
            wire.CreateRegisteredRequest(entries=batch)
            if method == "Create"
            else wire.UpdateRegisteredRequest(entries=batch, fields=fields)
        )
        results += (await calls.registered.unary(method, request)).results
    return results


async def keep_other_attribute(
    calls: ServerCalls, given: dict[str, Any], wanted: wire.RegisteredEntry
) -> None:
    """The two additional attributes travel together: one that was not given keeps its value."""
    names = ("disable_x509_svid_prefetch", "jwt_svid_include_jti")
    if any(name in given for name in names):
        now = await calls.registered.unary("Get", wire.GetRegisteredRequest(id=wanted.entry.id))
        for name in names:
            if name not in given:
                value = getattr(now.entry.additional_attributes, name)
                setattr(wanted.entry.additional_attributes, name, value)


async def create_many(path: str, server_socket: Any, output: Output, *, dry_run: bool = False) -> Exit:
    """Create the entries of a file, or say what would become of it."""
    wanted = _all(path)
    async with server_calls(server_socket) as calls:
        results = await send(calls, "Plan" if dry_run else "Create", wanted)
    return _tell_many(results, path, output, "would create" if dry_run else "created")


async def update_many(path: str, server_socket: Any, output: Output) -> Exit:
    """Replace the entries of a file."""
    wanted = _all(path)
    if nameless := [number for number, each in enumerate(wanted, 1) if not each.entry.id]:
        raise USAGE.error(f"entry {nameless[0]} of the file has no entry_id")
    async with server_calls(server_socket) as calls:
        results = await send(calls, "Update", wanted)
    return _tell_many(results, path, output, "updated")


def _all(path: str) -> list[wire.RegisteredEntry]:
    """The entries of a file; the first one that is wrong is named, and nothing is sent."""
    found = []
    for number, each in enumerate(documents(path), 1):
        try:
            found.append(registered(each)[0])
        except VestibuleError as error:
            raise placed(error, path, number) from error
    return found


def _tell_many(results: Sequence[Any], path: str, output: Output, done: str) -> Exit:
    errors, found, existed = [], [], 0
    for number, result in enumerate(results, 1):
        if is_similar(result):
            existed += 1
        elif result.status.code:
            errors += [placed(error, path, number) for error in errors_of([result])]
            continue
        found.append(with_warnings(result) | {"created": result.status.code == 0})

    def tell() -> None:
        console.print(
            f"{done} {len(found) - existed} of {len(results)}" + (f"; {existed} existed" if existed else "")
        )
        for each in found:
            warn(each)

    answer(output, "entries", found, tell, errors=errors)
    return Exit.REFUSED if errors else Exit.FINDINGS if existed else Exit.FINE


def entry_filter(
    spiffe_id: str | None = None,
    parent_id: str | None = None,
    selectors: list[str] | None = None,
    match_selectors_on: MatchOn = MatchOn.SUPERSET,
    federates_with: list[str] | None = None,
    match_federates_with_on: MatchOn = MatchOn.SUPERSET,
    hint: str | None = None,
    downstream: bool | None = None,
    labels: list[str] | None = None,
    *,
    label: list[str] | None = None,
) -> wire.RegisteredFilter:
    """What a listing asks for."""
    wanted = wire.RegisteredFilter(
        spiffe_id=None if spiffe_id is None else str(SpiffeId.parse(spiffe_id)),
        parent_id=None if parent_id is None else str(SpiffeId.parse(parent_id)),
        selectors=_selectors(selectors or ()),
        match_selectors=match_selectors_on.wire,
        federates_with=federates_with or (),
        match_federates_with=match_federates_with_on.wire,
        hint=hint,
        downstream=downstream,
    )
    for text in labels or label or ():
        name, _, value = text.partition("=")
        wanted.labels[name] = value
    return wanted


async def find(calls: ServerCalls, wanted: wire.RegisteredFilter) -> list[Any]:
    """All entries that fit."""
    return await every_page(
        lambda token: calls.registered.unary(
            "List", wire.ListRegisteredRequest(filter=wanted, page_size=PAGE, page_token=token)
        ),
        lambda page: page.entries,
    )


async def require_parent(calls: ServerCalls, parent: SpiffeId) -> None:
    """SPIRE's API takes any parent; a typing mistake there is silent, so it is caught here.  Raises: VST1301."""
    if parent == server_id(parent.trust_domain):
        return
    if parent.path.startswith(AGENT_PREFIX):
        agents = await calls.agents.unary("ListAgents", agent_pb2.ListAgentsRequest())
        known = {from_wire(agent.id) for agent in agents.agents}
    else:
        found = await find(calls, entry_filter(spiffe_id=str(parent)))
        known = {from_wire(each.entry.spiffe_id) for each in found if not each.extras.path_template}
    if str(parent) not in known:
        raise UNKNOWN_PARENT.error(f"{parent} is no agent, and no entry's identity")


def _selectors(texts: Sequence[str]) -> list[types_pb2.Selector]:
    parsed = [Selector.parse(text) for text in texts]
    return [types_pb2.Selector(type=each.type, value=each.value) for each in parsed]


def is_similar(result: Any) -> bool:
    """Whether the entry was there already; another one of its ID is an error."""
    return bool(result.status.code == ALREADY_EXISTS and result.HasField("entry"))


def with_warnings(result: Any) -> dict[str, Any]:
    """A result as the envelope carries it."""
    found = document(result.entry)
    found["warnings"] = [
        {"kind": each.kind, "message": each.message, "entry_ids": list(each.entry_ids)}
        for each in result.warnings
    ]
    return found


def warn(data: dict[str, Any]) -> None:
    """Tell a person what is to know of an entry."""
    for each in data.get("warnings", ()):
        sentence(complaints, "[bold yellow]![/]", escape(each["message"]))
