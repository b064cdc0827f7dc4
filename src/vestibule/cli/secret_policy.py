"""``vestibule secret who-can-read`` and ``what-can``: what the rules of an intent say; no secret is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.sockets import ServerSocketOption

IntentOption = Annotated[
    str | None,
    typer.Option("--intent", metavar="DIR|COMMIT", help="The intent that is meant. [default: what runs]"),
]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", metavar="NAME", help="Which one of environments/ is meant.")
]


def who_can_read(
    path: Annotated[str, typer.Argument(metavar="PATH", help="As rules write it: secret/payments/db.")],
    verb: Annotated[
        str, typer.Option("--verb", help="Something else than reading: write, list, rotate, use.")
    ] = "read",
    intent: IntentOption = None,
    environment: EnvironmentOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say who may read a secret now, by which rule, and until when.  Exits 1 if nobody may."""

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import meant
            from vestibule.cli.secret_explanations import logical_path, who_can
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"who-can-read needs {error.name}, which is not installed") from error

        found = await meant(intent, environment, server_socket)
        rows = who_can(found, path, verb, datetime.now(UTC))
        data = {"secret": logical_path(path), "verb": verb, "intent": found.version, "callers": rows}
        answer(output, "secret-who-can", data, lambda: _show_callers(data))
        return Exit.FINE if rows else Exit.FINDINGS

    run(output, "secret-who-can", main)


def what_can(
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="A service, a gateway, or spiffe://….")],
    intent: IntentOption = None,
    environment: EnvironmentOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what an identity may do with which secrets, and by which rules.  Exits 1 if nothing."""

    async def main() -> Exit:
        try:
            from vestibule.cli.intent_places import meant
            from vestibule.cli.secret_explanations import what_can as found_for
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"what-can needs {error.name}, which is not installed") from error

        found = await meant(intent, environment, server_socket)
        rows = found_for(found, identity, datetime.now(UTC))
        data = {"identity": identity, "intent": found.version, "permissions": rows}
        answer(output, "secret-what-can", data, lambda: _show_permissions(identity, rows))
        return Exit.FINE if rows else Exit.FINDINGS

    run(output, "secret-what-can", main)


def _show_callers(data: dict[str, Any]) -> None:
    if not data["callers"]:
        console.print(f"nobody may {data['verb']} {escape(data['secret'])}")
    for each in data["callers"]:
        where = f" ({each['where']})" if each["where"] else ""
        until = f" until {each['until']}" if each["until"] else ""
        when = f" if {each['condition']}" if each["condition"] else ""
        console.print(f"{escape(each['who'] + until + when)}  [dim]{escape(each['rule'] + where)}[/]")


def _show_permissions(identity: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print(f"{escape(identity)} may do nothing with any secret")
    for each in rows:
        rules = ", ".join(f"{rule['name']} ({rule['where']})" for rule in each["rules"])
        console.print(f"{', '.join(each['may'])} {escape(each['paths'])}  [dim]{escape(rules)}[/]")
