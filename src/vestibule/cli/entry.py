"""``vestibule entry``: registration entries."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.entry_calls import (
    create_many,
    entry_filter,
    find,
    is_similar,
    keep_other_attribute,
    require_parent,
    send,
    update_many,
    warn,
    with_warnings,
)
from vestibule.cli.entry_documents import claims, document, documents, exported, pairs, registered
from vestibule.cli.entry_options import (
    AdminOption,
    ClaimOption,
    DataOption,
    DnsOption,
    DownstreamFilter,
    DownstreamOption,
    ExpiresOption,
    ExpiryOption,
    FederatesOption,
    Form,
    HintOption,
    IdentitiesOption,
    JtiOption,
    JwtTtlOption,
    LabelFilter,
    LabelOption,
    MatchFederatesOption,
    MatchOn,
    MatchSelectorsOption,
    ParentOption,
    PrefetchOption,
    SelectorOption,
    SpiffeIdOption,
    StoreOption,
    TtlOption,
)
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import check, errors_of, server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.identity.names import server_id
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.wire.gen.spire import entry_pb2
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2 as wire


def create(
    spiffe_id: SpiffeIdOption = None,
    selector: SelectorOption = None,
    parent_id: ParentOption = None,
    node: Annotated[
        bool, typer.Option("--node", help="Make a node alias: for every agent with these selectors.")
    ] = False,
    parent_to_come: Annotated[
        bool, typer.Option("--parent-to-come", help="The parent does not exist yet.")
    ] = False,
    x509_svid_ttl: TtlOption = None,
    jwt_svid_ttl: JwtTtlOption = None,
    dns_name: DnsOption = None,
    federates_with: FederatesOption = None,
    hint: HintOption = None,
    expires_in: ExpiresOption = None,
    entry_expiry: ExpiryOption = None,
    admin: AdminOption = None,
    downstream: DownstreamOption = None,
    store_svid: StoreOption = None,
    disable_x509_svid_prefetch: PrefetchOption = None,
    jwt_svid_include_jti: JtiOption = None,
    label: LabelOption = None,
    claim: ClaimOption = None,
    max_identities: IdentitiesOption = None,
    entry_id: Annotated[str, typer.Option("--entry-id", help="Chosen instead of generated.")] = "",
    data: DataOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --data: say what would be created, and what to know of it."),
    ] = False,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Create entries: under its parent, whoever has all selectors gets the identity."""

    async def main() -> Exit:
        given = _given(
            entry_id=entry_id or None,
            spiffe_id=spiffe_id,
            parent_id=parent_id,
            selectors=selector,
            x509_svid_ttl=x509_svid_ttl,
            jwt_svid_ttl=jwt_svid_ttl,
            dns_names=dns_name,
            federates_with=federates_with,
            hint=hint,
            expires_in=expires_in,
            entry_expiry=entry_expiry,
            admin=admin,
            downstream=downstream,
            store_svid=store_svid,
            disable_x509_svid_prefetch=disable_x509_svid_prefetch,
            jwt_svid_include_jti=jwt_svid_include_jti,
            labels=pairs(label, "--label") if label else None,
            jwt_claims=claims(claim) if claim else None,
            max_identities=max_identities,
        )
        if data is not None:
            if given or node:
                raise USAGE.error("--data says everything: leave out the other options")
            return await create_many(data, server_socket, output, dry_run=dry_run)
        if dry_run:
            raise USAGE.error("--dry-run is for --data")
        if spiffe_id is None or not selector:
            raise USAGE.error("an entry needs --spiffe-id and --selector, or --data")
        if node == (parent_id is not None):
            raise USAGE.error("an entry has either --parent-id or --node")
        wanted, _ = registered(given)
        domain = TrustDomain.parse(wanted.entry.spiffe_id.trust_domain)
        parent = server_id(domain) if parent_id is None else SpiffeId.parse(parent_id)
        wanted.entry.parent_id.trust_domain, wanted.entry.parent_id.path = (
            str(parent.trust_domain),
            parent.path,
        )
        async with server_calls(server_socket) as calls:
            if not parent_to_come:
                await require_parent(calls, parent)
            [result] = await send(calls, "Create", [wanted])
        existed = is_similar(result)
        if not existed:
            check(result.status)
        found = with_warnings(result) | {"created": not existed}
        answer(output, "entry", found, lambda: _show_created(found))
        return Exit.FINDINGS if existed else Exit.FINE

    run(output, "entry", main)


def show(
    entry_id: Annotated[str | None, typer.Argument(metavar="ENTRY-ID")] = None,
    spiffe_id: SpiffeIdOption = None,
    parent_id: ParentOption = None,
    selector: SelectorOption = None,
    match_selectors_on: MatchSelectorsOption = MatchOn.SUPERSET,
    federates_with: FederatesOption = None,
    match_federates_with_on: MatchFederatesOption = MatchOn.SUPERSET,
    hint: HintOption = None,
    downstream: DownstreamFilter = None,
    label: LabelFilter = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one entry, or all that fit."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            if entry_id is not None:
                found = [await calls.registered.unary("Get", wire.GetRegisteredRequest(id=entry_id))]
            else:
                wanted = entry_filter(
                    spiffe_id, parent_id, selector, match_selectors_on, federates_with,
                    match_federates_with_on, hint, downstream, label,
                )  # fmt: skip
                found = await find(calls, wanted)
        data = [document(entry) for entry in found]
        answer(output, "entries", data, lambda: _show_all(data))
        return Exit.FINE

    run(output, "entries", main)


def export(
    form: Annotated[Form, typer.Option("--format", help="yaml or json.")] = Form.YAML,
    label: LabelFilter = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print all entries as a file for `entry create --data`; without what was derived from templates."""

    async def main() -> Exit:
        wanted = entry_filter(label=label)
        wanted.template_id = ""
        async with server_calls(server_socket) as calls:
            found = [exported(each) for each in await find(calls, wanted)]
        answer(output, "entries", found, lambda: _print(form, {"entries": found}))
        return Exit.FINE

    run(output, "entries", main)


def update(
    entry_id: Annotated[str | None, typer.Argument(metavar="ENTRY-ID")] = None,
    spiffe_id: SpiffeIdOption = None,
    parent_id: ParentOption = None,
    selector: SelectorOption = None,
    x509_svid_ttl: TtlOption = None,
    jwt_svid_ttl: JwtTtlOption = None,
    dns_name: DnsOption = None,
    federates_with: FederatesOption = None,
    federates_with_nobody: Annotated[
        bool, typer.Option("--federates-with-nobody", help="Only the own trust domain is believed.")
    ] = False,
    hint: HintOption = None,
    expires_in: ExpiresOption = None,
    entry_expiry: ExpiryOption = None,
    admin: AdminOption = None,
    downstream: DownstreamOption = None,
    store_svid: StoreOption = None,
    disable_x509_svid_prefetch: PrefetchOption = None,
    jwt_svid_include_jti: JtiOption = None,
    label: LabelOption = None,
    claim: ClaimOption = None,
    max_identities: IdentitiesOption = None,
    data: DataOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change what is given; everything else stays.  With --data, each entry is replaced as a whole."""

    async def main() -> Exit:
        given = _given(
            spiffe_id=spiffe_id,
            parent_id=parent_id,
            selectors=selector,
            x509_svid_ttl=x509_svid_ttl,
            jwt_svid_ttl=jwt_svid_ttl,
            dns_names=dns_name,
            federates_with=federates_with,
            hint=hint,
            expires_in=expires_in,
            entry_expiry=entry_expiry,
            admin=admin,
            downstream=downstream,
            store_svid=store_svid,
            disable_x509_svid_prefetch=disable_x509_svid_prefetch,
            jwt_svid_include_jti=jwt_svid_include_jti,
            labels=pairs(label, "--label") if label else None,
            jwt_claims=claims(claim) if claim else None,
            max_identities=max_identities,
        )
        if federates_with_nobody:
            if federates_with:
                raise USAGE.error("an entry federates with somebody or with nobody")
            given["federates_with"] = []
        if data is not None:
            if given or entry_id:
                raise USAGE.error("--data says everything: leave out the other options")
            return await update_many(data, server_socket, output)
        if entry_id is None:
            raise USAGE.error("update wants an entry ID, or --data")
        if not given:
            raise USAGE.error("there is nothing to change")
        wanted, fields = registered({**given, "entry_id": entry_id})
        async with server_calls(server_socket) as calls:
            await keep_other_attribute(calls, given, wanted)
            [result] = await send(calls, "Update", [wanted], fields)
        check(result.status)
        found = with_warnings(result)
        answer(output, "entry", found, lambda: _show_one(found))
        return Exit.FINE

    run(output, "entry", main)


def delete(
    entry_ids: Annotated[list[str] | None, typer.Argument(metavar="ENTRY-ID")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE|-", help="The entries of a file, by their entry_id.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete entries; their SVIDs are withdrawn from workloads at once."""

    async def main() -> Exit:
        ids = list(entry_ids or ())
        if data is not None:
            ids += [str(each.get("entry_id") or each.get("id") or "") for each in documents(data)]
        if not ids or not all(ids):
            raise USAGE.error("delete wants entry IDs, or a file whose entries all have one")
        request = entry_pb2.BatchDeleteEntryRequest(ids=ids)
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


def count(
    spiffe_id: SpiffeIdOption = None,
    parent_id: ParentOption = None,
    selector: SelectorOption = None,
    match_selectors_on: MatchSelectorsOption = MatchOn.SUPERSET,
    federates_with: FederatesOption = None,
    match_federates_with_on: MatchFederatesOption = MatchOn.SUPERSET,
    hint: HintOption = None,
    downstream: DownstreamFilter = None,
    label: LabelFilter = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Count all entries, or those that fit."""

    async def main() -> Exit:
        wanted = entry_filter(
            spiffe_id, parent_id, selector, match_selectors_on, federates_with,
            match_federates_with_on, hint, downstream, label,
        )  # fmt: skip
        async with server_calls(server_socket) as calls:
            number = (await calls.registered.unary("Count", wire.CountRegisteredRequest(filter=wanted))).count
        answer(output, "entry-count", {"count": number}, lambda: console.print(str(number)))
        return Exit.FINE

    run(output, "entry-count", main)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, as a document."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def _print(form: Form, found: dict[str, Any]) -> None:
    import json
    import sys

    if form is Form.JSON:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its stubs know only None
    yaml.dump(found, sys.stdout)


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
        shown: Any = value
        if isinstance(value, list):
            shown = ", ".join(map(str, value))
        elif isinstance(value, dict):
            shown = ", ".join(f"{key}={each}" for key, each in value.items())
        if name not in ("created", "warnings") and shown not in (None, "", False):
            console.print(f"{name.replace('_', ' '):<15} {escape(str(shown))}")
    warn(data)
