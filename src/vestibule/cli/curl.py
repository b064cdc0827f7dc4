"""``vestibule curl``: call an endpoint as this process, and see who answers."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.curl_exchange import Answered, Asked, exchange, parse_url
from vestibule.cli.output import Exit, Output, OutputOption, answer, plain, run
from vestibule.cli.sockets import AgentSocketOption, find_sockets
from vestibule.cli.text_files import read_text
from vestibule.sdk import X509Source, authorize_any_of, authorize_ids, authorize_paths, client_context
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.codes import NO_SIDECAR, NO_SVID
from vestibule.spiffe import X509Svid

EGRESS: Final = "VESTIBULE_EGRESS"
LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a body that --output json carries."""


def curl(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="https://HOST:PORT/…, or http://SERVICE/… of the mesh.")
    ],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect", metavar="SPIFFE-ID", help="Who is to answer; * is any segment. May be repeated."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--request", "-X", metavar="METHOD", help="GET, or POST with data.")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME: VALUE|@FILE", help="A header, or a file of them."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="TEXT|@FILE|@-", help="What to send.")
    ] = None,
    hint: Annotated[
        str, typer.Option("--as", metavar="HINT|SPIFFE-ID", help="Which identity, where there are several.")
    ] = "",
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show both identities, TLS, headers and times on standard error."
        ),
    ] = False,
    write_to: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="The body goes there.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--max-time", min=0.1, help="Seconds that the call may take.")
    ] = 30.0,
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Call an https endpoint with this process's SVID, if it proves to be whom --expect names; print the body.

    http://SERVICE/… goes by the sidecar (VESTIBULE_EGRESS), which knows who is meant.  Exit 1: it answered 400 or more.
    """

    async def main() -> Exit:
        asked = _asked(url, method, header or [], data, seconds)
        tell: Callable[[Answered], None] = lambda found: _tell(asked, found, verbose, write_to, output)  # noqa: E731
        if asked.url.scheme == "http":
            if expect:
                raise USAGE.error(
                    "--expect is for https", advice="The sidecar decides who a service of the mesh is."
                )
            return _exchanged(asked, tell, None, _egress())
        wanted = _wanted(expect or [])
        socket = find_sockets(agent=agent_socket).existing_agent()
        async with X509Source(f"unix://{socket.resolve()}", pick=_picker(hint)) as source:
            return _exchanged(asked, tell, client_context(source, wanted), "")

    run(output, "curl", main)


def _exchanged(asked: Asked, tell: Callable[[Answered], None], context: Any, egress: str) -> Exit:
    # Nothing else is to be done meanwhile, so it may block.
    with exchange(asked, context, egress) as found:
        tell(found)
        return Exit.FINDINGS if found.status >= 400 else Exit.FINE


def _asked(url: str, method: str, header: Sequence[str], data: str | None, seconds: float) -> Asked:
    body = _body(data)
    return Asked(
        url=parse_url(url),
        method=method.upper() or ("POST" if data is not None else "GET"),
        headers=dict(_headers(header)),
        body=body,
        seconds=seconds,
    )


def _body(data: str | None) -> bytes:
    if data is None or not data.startswith("@"):
        return (data or "").encode()
    return sys.stdin.buffer.read() if data == "@-" else _read(data[1:])


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise USAGE.error(
            f"{name} cannot be read: {error.strerror}", advice="Name a file that exists."
        ) from error


def _headers(given: Sequence[str]) -> list[tuple[str, str]]:
    lines: list[str] = []
    for each in given:
        lines += read_text(Path(each[1:])).splitlines() if each.startswith("@") else [each]
    found = [line.partition(":") for line in lines if line.strip()]
    for name, colon, value in found:
        if not colon or not name.strip() or not (name + value).isprintable():
            raise USAGE.error("a header cannot be read", advice="Write 'Name: value'.")
    return [(name.strip(), value.strip()) for name, _, value in found]


def _wanted(expect: Sequence[str]) -> Authorizer:
    if not expect:
        raise USAGE.error(
            "https needs --expect: a certificate proves who answers, and somebody has to say who is meant",
            advice="Add --expect spiffe://TRUST-DOMAIN/PATH, or a pattern such as spiffe://example.org/ns/*/sa/payments.",
        )
    return authorize_any_of(
        *(authorize_paths(each) if "*" in each else authorize_ids(each) for each in expect)
    )


def _egress() -> str:
    egress = os.environ.get(EGRESS, "")
    if not egress:
        raise NO_SIDECAR.error(f"{EGRESS} is not set")
    return egress


def _picker(hint: str) -> Callable[[Sequence[X509Svid]], X509Svid]:
    def pick(svids: Sequence[X509Svid]) -> X509Svid:
        for each in svids:
            if not hint or hint in (each.hint, str(each.spiffe_id)):
                return each
        there = ", ".join(f"{each.spiffe_id}" + (f" ({each.hint})" if each.hint else "") for each in svids)
        raise NO_SVID.error(f"there is no identity {hint!r}; there are: {there}")

    return pick


def _tell(asked: Asked, found: Answered, verbose: bool, write_to: Path | None, output: Output) -> None:
    if verbose:
        sys.stderr.write("".join(f"{plain(line)}\n" for line in _lines(asked, found)))
        sys.stderr.flush()
    if write_to is not None:
        with write_to.open("wb") as file:
            file.writelines(found.body)
    if output is Output.JSON:
        answer(output, "curl", _facts(found, write_to is None), lambda: None)
    elif write_to is None:
        sys.stdout.buffer.writelines(found.body)
        sys.stdout.buffer.flush()


def _lines(asked: Asked, found: Answered) -> list[str]:
    lines = []
    if found.secured is not None:
        settled = found.secured.connection
        left = int((settled.ends - datetime.now(UTC)).total_seconds())
        lines = [
            f"* we are     {settled.own}",
            f"* they are   {settled.peer}",
            f"* TLS        {found.secured.version}, {found.secured.cipher}",
            f"* certificates last until {settled.ends:%Y-%m-%d %H:%M:%S} UTC, for {left} s",
        ]
    lines += [f"> {asked.method} {asked.target}", f"> host: {asked.place}"]
    lines += [f"> {name.lower()}: …" for name in asked.headers]  # values may be secrets
    lines += [
        f"< {found.status} {found.reason}",
        *(f"< {name.lower()}: {value}" for name, value in found.headers),
    ]
    lines.append(
        f"* connected after {found.connected * 1000:.0f} ms, answered after {found.first * 1000:.0f} ms"
    )
    return lines


def _facts(found: Answered, with_body: bool) -> dict[str, Any]:
    secured = found.secured
    facts: dict[str, Any] = {
        "status": found.status,
        "headers": [list(each) for each in found.headers],
        "own": str(secured.connection.own) if secured else None,
        "peer": str(secured.connection.peer) if secured else None,
        "tls": {"version": secured.version, "cipher": secured.cipher} if secured else None,
        "ends": secured.connection.ends.isoformat() if secured else None,
        "seconds": {"connected": round(found.connected, 6), "answered": round(found.first, 6)},
    }
    return facts | (_carried(found) if with_body else {})


def _carried(found: Answered) -> dict[str, str]:
    body = bytearray()
    for chunk in found.body:
        body += chunk
        if len(body) > LARGEST:
            raise USAGE.error("the body is too large for --output json", advice="Add --write FILE.")
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
