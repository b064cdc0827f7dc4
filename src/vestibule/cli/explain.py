"""``vestibule explain``: which rule decides a call, and what the nearest one misses, as both proxies see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vestibule.cli.codes import MISSING_EXTRA, NO_SUCH_REQUEST, USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, run
from vestibule.cli.sockets import ServerSocketOption, find_sockets

if TYPE_CHECKING:
    from vestibule.observe.access_record import AccessRecord
    from vestibule.records import Emergency

OF_SECRET: Final = "secret:"  # noqa: S105 - the beginning of a target
"""Begins a target that is a secret and no service."""

OF_TOKEN: Final = "token:"  # noqa: S105 - the beginning of a target
"""Begins a target that is an audience of tokens."""


def explain(
    caller: Annotated[
        str, typer.Argument(metavar="CALLER", help="A service, a gateway, spiffe://…, or plaintext.")
    ] = "",
    target: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE[/PORT]|secret:PATH|token:AUDIENCE",
            help="What is called; or a secret, or for whom a token is, and METHOD is a verb then.",
        ),
    ] = "",
    method: Annotated[str, typer.Argument(metavar="METHOD")] = "GET",
    path: Annotated[str, typer.Argument(metavar="PATH", help="As it is asked, with its query.")] = "/",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="Repeatable.")
    ] = None,
    claims: Annotated[
        list[str] | None,
        typer.Option(
            "--claims",
            metavar="ISSUER=JSON",
            help="The claims of a valid token; @FILE reads them. Repeatable.",
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="Of token:AUDIENCE, what is asked for. Repeatable."),
    ] = None,
    mcp: Annotated[
        str | None,
        typer.Option("--mcp", metavar="METHOD[:TARGET]", help="What an MCP client asks, as tools/call:read."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When, as 2026-11-22T09:00:00Z. [default: now]")
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option("--request", metavar="ID", help="A call that was made, by its x-request-id, instead."),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log", help="Where to look for it. Repeatable. [default: of `up` here, or of this machine]"
        ),
    ] = None,
    intent: Annotated[
        str | None,
        typer.Option("--intent", metavar="DIR|COMMIT", help="The intent that is meant. [default: what runs]"),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
    ] = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say whether a call is allowed, by which rule, and if not, what the nearest rule misses.

    Of a secret (`explain payments secret:payments/db read`) it says whether it may be read, written, and so on; of a
    token (`explain web token:reports mint --scope report:read`) whether it can be had.
    Tells what the caller's proxy does with it, and what the callee's decides.  Exits 0 if it is allowed, 1 if not.
    """

    async def main() -> Exit:
        try:
            from vestibule.cli import explain_report, explanations
            from vestibule.cli.intent_places import find, running
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"explain needs {error.name}, which is not installed") from error

        if bool(request_id) == bool(caller and target):
            raise USAGE.error("explain wants CALLER and SERVICE, or --request ID")
        if target.startswith(OF_SECRET):
            return await _of_secret(
                caller, target, method, _instant(at), (intent, environment, server_socket), output
            )
        if target.startswith(OF_TOKEN):
            place, token = (intent, environment, server_socket), (scope or (), _claims(claims or ()))
            return await _of_token(caller, target, method, token, _instant(at), place, output)
        emergencies: Sequence[Emergency] = ()
        if intent is not None:
            found = find(intent, environment)
        else:
            socket = find_sockets(server=server_socket).existing_server()
            found = await running(socket)
            emergencies = await explanations.open_emergencies(socket)
        known = found.held
        records = _recorded(request_id, log) if request_id else ()
        asked = (
            explanations.of_records(records, known)
            if records
            else explanations.Asked.of(
                known,
                caller,
                target,
                method=method,
                path=path,
                headers=_headers(header or ()),
                tokens=_claims(claims or ()),
                mcp=mcp,
                at=_instant(at),
            )
        )
        told = explanations.explained(found, asked, emergencies, records)
        answer(output, "explain", explain_report.document(told), lambda: explain_report.show(told))
        return Exit.FINE if told.allowed else Exit.FINDINGS

    run(output, "explain", main)


async def _of_secret(
    caller: str,
    target: str,
    verb: str,
    at: datetime,
    place: tuple[str | None, str | None, Path | None],
    output: Output,
) -> Exit:
    from vestibule.cli import secret_explanations
    from vestibule.cli.intent_places import meant

    found = await meant(*place)
    verb = "read" if verb == "GET" else verb
    told = secret_explanations.explained(found, caller, target.removeprefix(OF_SECRET), verb, at)
    answer(
        output, "explain-secret", secret_explanations.document(told), lambda: secret_explanations.show(told)
    )
    return Exit.FINE if told.allowed else Exit.FINDINGS


async def _of_token(
    caller: str,
    target: str,
    verb: str,
    asked: tuple[Sequence[str], Mapping[str, Mapping[str, Any]]],
    at: datetime,
    place: tuple[str | None, str | None, Path | None],
    output: Output,
) -> Exit:
    from vestibule.cli import token_explanations
    from vestibule.cli.intent_places import meant

    found, audience = await meant(*place), target.removeprefix(OF_TOKEN)
    verb, (scopes, given) = "mint" if verb == "GET" else verb, asked
    told = token_explanations.explained(found, caller, audience, verb, scopes=scopes, given=given, at=at)
    answer(output, "explain-token", token_explanations.document(told), lambda: token_explanations.show(told))
    return Exit.FINE if told.allowed else Exit.FINDINGS


def _recorded(request_id: str, logs: list[Path] | None) -> tuple[AccessRecord, ...]:
    from vestibule.cli.calls import found_logs, recorded

    records = tuple(each for each in recorded(logs) if each.request_id == request_id)
    if not records:
        shown = ", ".join(map(str, found_logs(logs)))
        raise NO_SUCH_REQUEST.error(f"no record in {shown} is of the request {request_id[:80]!r}")
    return records


def _headers(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not (name.strip() and colon):
            raise USAGE.error(f"--header wants NAME:VALUE, not {each[:60]!r}")
        name = name.strip().lower()
        headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
    return headers


def _claims(given: list[str] | tuple[str, ...]) -> dict[str, dict[str, Any]]:
    tokens: dict[str, dict[str, Any]] = {}
    for each in given:
        issuer, equals, text = each.partition("=")
        if not (issuer and equals):
            raise USAGE.error('--claims wants ISSUER=JSON, such as internal=\'{"aud": "payments"}\'')
        try:
            found = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
        except (OSError, ValueError) as error:
            raise USAGE.error(f"the claims of {issuer} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise USAGE.error(f"the claims of {issuer} are no JSON object")
        tokens[issuer] = found
    return tokens


def _instant(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise USAGE.error(f"--at wants a time such as 2026-11-22T09:00:00Z, not {text[:40]!r}") from error
    if found.tzinfo is None:
        raise USAGE.error("--at wants a time with its zone", advice="Add Z for UTC, or +01:00.")
    return found
