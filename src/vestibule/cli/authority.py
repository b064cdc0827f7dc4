"""``vestibule authority``: the keys that sign, shown and moved on (SPIRE's LocalAuthority API)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import ServerCalls, instant, server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.net.grpc import Client
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.wire.gen.spire import bundle_pb2
from vestibule.wire.gen.spire import localauthority_pb2 as wire

AuthorityArgument = Annotated[
    str, typer.Argument(metavar="AUTHORITY-ID", help="As `show` prints it; for JWT keys, their kid.")
]
RootArgument = Annotated[
    str,
    typer.Argument(
        metavar="SUBJECT-KEY-ID", help="The root's, in hex; `vestibule authority x509 show` prints it."
    ),
]
_STATES: Final = ("active", "prepared", "old")
_NEXT: Final = {
    ("X509", "prepare"): "Everybody has it within seconds. Then: vestibule authority x509 activate {id}",
    ("JWT", "prepare"): "Everybody has it within seconds. Then: vestibule authority jwt activate {id}",
    ("X509", "activate"): "It signs from now on. What the one before signed stays valid.",
    ("JWT", "activate"): "It signs from now on. What the one before signed stays valid.",
    ("X509", "taint"): "Agents renew what it signed, 100 certificates in 5 s each. "
    "Give them that time, then: vestibule authority x509 revoke {id}",
    ("JWT", "taint"): "Agents drop its tokens at once. Then: vestibule authority jwt revoke {id}",
    ("X509", "revoke"): "Nothing that it signed is valid any more.",
    ("JWT", "revoke"): "Nothing that it signed is valid any more.",
}


def x509_show(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show the X.509 authorities: the one that signs, the next one, and the one before."""
    _show("X509", server_socket, output)


def x509_prepare(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Make the next X.509 authority, and put it into the bundle; it does not sign yet."""
    _step("X509", "prepare", "", server_socket, output)


def x509_activate(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let the prepared X.509 authority sign from now on."""
    _step("X509", "activate", authority_id, server_socket, output)


def x509_taint(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have everything that an old X.509 authority signed replaced."""
    _step("X509", "taint", authority_id, server_socket, output)


def x509_revoke(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a tainted X.509 authority out of the bundle: what it signed is worth nothing from then on."""
    _step("X509", "revoke", authority_id, server_socket, output)


def jwt_show(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show the JWT authorities: the one that signs, the next one, and the one before."""
    _show("JWT", server_socket, output)


def jwt_prepare(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Make the next JWT authority, and put it into the bundle; it does not sign yet."""
    _step("JWT", "prepare", "", server_socket, output)


def jwt_activate(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let the prepared JWT authority sign from now on."""
    _step("JWT", "activate", authority_id, server_socket, output)


def jwt_taint(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have agents drop every token of an old JWT authority."""
    _step("JWT", "taint", authority_id, server_socket, output)


def jwt_revoke(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a tainted JWT authority out of the bundle: its tokens are worth nothing from then on."""
    _step("JWT", "revoke", authority_id, server_socket, output)


def wit_show(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Show the WIT authorities: the one that signs, the next one, and the one before."""
    _show("WIT", server_socket, output)


def wit_prepare(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """Make the next WIT authority, and put it into the bundle; it does not sign yet."""
    _step("WIT", "prepare", "", server_socket, output)


def wit_activate(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Let the prepared WIT authority sign from now on."""
    _step("WIT", "activate", authority_id, server_socket, output)


def wit_taint(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have agents replace every token of an old WIT authority."""
    _step("WIT", "taint", authority_id, server_socket, output)


def wit_revoke(
    authority_id: AuthorityArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a tainted WIT authority out of the bundle: its tokens are worth nothing from then on."""
    _step("WIT", "revoke", authority_id, server_socket, output)


def upstream_taint(
    subject_key_id: RootArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Have everything below a root of the upstream replaced."""
    _upstream("Taint", subject_key_id, server_socket, output)


def upstream_revoke(
    subject_key_id: RootArgument,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a tainted root of the upstream out of this server's bundle."""
    _upstream("Revoke", subject_key_id, server_socket, output)


def _show(kind: str, socket: Any, output: Output) -> None:
    async def main() -> Exit:
        async with server_calls(socket) as calls:
            request = getattr(wire, f"Get{kind}AuthorityStateRequest")()
            states = await _client(calls).unary(f"Get{kind}AuthorityState", request)
            tainted = _tainted(await calls.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest()), kind)
        data = {
            name: _document(getattr(states, name), tainted) if states.HasField(name) else None
            for name in _STATES
        }
        answer(output, "authorities", data, lambda: _print_all(kind, data))
        return Exit.FINE

    run(output, "authorities", main)


def _step(kind: str, step: str, authority_id: str, socket: Any, output: Output) -> None:
    method = f"{step.capitalize()}{kind}Authority"

    async def main() -> Exit:
        request = getattr(wire, f"{method}Request")()
        if authority_id:
            request.authority_id = authority_id
        async with server_calls(socket) as calls:
            response = await _client(calls).unary(method, request)
        field = response.DESCRIPTOR.fields[0].name
        data = _document(getattr(response, field), frozenset())
        del data["tainted"]
        answer(output, "authority", data, lambda: _print_step(kind, step, field, data))
        return Exit.FINE

    run(output, "authority", main)


def _upstream(step: str, subject_key_id: str, socket: Any, output: Output) -> None:
    method = f"{step}X509UpstreamAuthority"

    async def main() -> Exit:
        request = getattr(wire, f"{method}Request")(subject_key_id=subject_key_id)
        async with server_calls(socket) as calls:
            response = await _client(calls).unary(method, request)
        data = {"upstream_authority_subject_key_id": response.upstream_authority_subject_key_id}
        past = {"Taint": "Tainted", "Revoke": "Revoked"}[step]
        text: Callable[[], None] = lambda: console.print(  # noqa: E731 - one line for people
            f"{past} upstream authority {escape(response.upstream_authority_subject_key_id)}"
        )
        answer(output, "authority", data, text)
        return Exit.FINE

    run(output, "authority", main)


def _client(calls: ServerCalls) -> Client:
    return Client(calls.channel, wire.DESCRIPTOR.services_by_name["LocalAuthority"])


def _tainted(bundle: Any, kind: str) -> frozenset[str]:
    if kind == "JWT":
        return frozenset(each.key_id for each in bundle.jwt_authorities if each.tainted)
    return frozenset(
        subject_key_id(load_certificate(each.asn1)) for each in bundle.x509_authorities if each.tainted
    )


def _document(state: wire.AuthorityState, tainted: frozenset[str]) -> dict[str, Any]:
    """An authority as the envelope carries it, by SPIRE's names."""
    upstream = state.upstream_authority_subject_key_id
    return {
        "authority_id": state.authority_id,
        "expires_at": instant(state.expires_at),
        "upstream_authority_subject_key_id": upstream or None,
        "tainted": state.authority_id in tainted or upstream in tainted,
    }


def _print_all(kind: str, data: dict[str, dict[str, Any] | None]) -> None:
    for name in _STATES:
        shown = {"X509": "X.509", "JWT": "JWT"}[kind]
        if (found := data[name]) is None:
            console.print(f"No {name} {shown} authority")
            continue
        console.print(f"{name.capitalize()} {shown} authority{' (tainted)' if found['tainted'] else ''}")
        _print_one(found)


def _print_one(data: dict[str, Any]) -> None:
    labels = {
        "authority_id": "authority id",
        "expires_at": "expires at",
        "upstream_authority_subject_key_id": "upstream root",
    }
    for name, label in labels.items():
        if data[name]:
            console.print(f"  {label:<14}{escape(str(data[name]))}")


def _print_step(kind: str, step: str, field: str, data: dict[str, Any]) -> None:
    shown = {"X509": "X.509", "JWT": "JWT"}[kind]
    console.print(f"{field.partition('_')[0].capitalize()} {shown} authority")
    _print_one(data)
    console.print(escape(_NEXT[kind, step].format(id=data["authority_id"])))
