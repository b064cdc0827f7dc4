"""``vestibule secret``: values that are kept, their versions, and their end."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA, USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.secret_calls import AddressOption, Found, SecretCalls, secret_calls
from vestibule.cli.secret_values import generated, hides, masked, show, values_of
from vestibule.cli.sockets import ServerSocketOption
from vestibule.sdk.codes import NO_SUCH_SECRET

PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="Such as payments/db, or secret/payments/db.")
]
VersionsOption = Annotated[
    list[int] | None,
    typer.Option("--version", min=1, help="Which version. Repeatable. [default: the newest]"),
]
_Do = Callable[[SecretCalls], Awaitable[Any]]


def put(
    path: PathArgument,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=-|KEY=@FILE|KEY]…", help="Where each value comes from; KEY alone asks."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A JSON object with all fields; - is standard input.")
    ] = None,
    cas: Annotated[
        int | None,
        typer.Option("--cas", min=0, help="Only if this is the newest version; 0: only if there is none."),
    ] = None,
    patch: Annotated[bool, typer.Option("--patch", help="Keep the fields that are not given.")] = False,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Keep a new version of a secret.  Values come from standard input or files, never from the command line."""
    below = _kv(path)

    async def do(calls: SecretCalls) -> dict[str, Any]:
        body = {"data": values_of(fields or (), file), **({} if cas is None else {"options": {"cas": cas}})}
        found = _there(await calls("PATCH" if patch else "POST", f"secret/data/{below}", body), path)
        return {"path": f"secret/{below}", "version": found.data["version"]}

    def tell(data: dict[str, Any]) -> None:
        console.print(f"{escape(data['path'])} version {data['version']}")

    _run("secret-put", do, tell, address, server_socket, output)


def get(
    path: PathArgument,
    field: Annotated[str | None, typer.Option("--field", help="Only this field, as it is.")] = None,
    version: Annotated[int, typer.Option("--version", min=0, help="[default: the newest]")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Show values on a terminal, too.")] = False,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Read a secret.  On a terminal its values are masked unless --raw; into a pipe they go as JSON."""
    below, hide = _kv(path), hides(raw)

    async def do(calls: SecretCalls) -> dict[str, Any]:
        query = {"version": str(version)} if version else {}
        found = _there(await calls("GET", f"secret/data/{below}", None, **query), path)
        values = found.data["data"]
        if field is not None and field not in values:
            raise NO_SUCH_SECRET.error(
                f"{path} has no field {field!r}", advice=f"It has {', '.join(values)}."
            )
        chosen = values if field is None else {field: values[field]}
        return {
            "path": f"secret/{below}",
            "version": found.data["metadata"]["version"],
            "created": found.data["metadata"]["created_time"],
            "data": masked(chosen, hide),
        }

    def tell(data: dict[str, Any]) -> None:
        if field is None or hide:
            show(data["data"], hide)
        else:
            value = data["data"][field]
            sys.stdout.write(value if isinstance(value, str) else f"{value}")
            sys.stdout.write("\n" if sys.stdout.isatty() else "")

    _run("secret", do, tell, address, server_socket, output)


def list_secrets(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder. [default: all of secret/]")] = "",
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List what is in a folder; folders end with a slash.  Exits 1 if there is nothing."""
    below = _kv(path) if path.strip("/") not in ("", "secret") else ""

    async def do(calls: SecretCalls) -> dict[str, Any]:
        found = await calls("LIST", f"secret/metadata/{below}".rstrip("/"))
        return {"path": f"secret/{below}", "keys": list(found.data.get("keys") or ())}

    def tell(data: dict[str, Any]) -> None:
        for each in data["keys"]:
            console.print(escape(each))
        if not data["keys"]:
            console.print(f"there is nothing in {escape(data['path'])}")

    _run("secret-list", do, tell, address, server_socket, output, lambda data: bool(data["keys"]))


def history(
    path: PathArgument,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the versions of a secret: when each was written, by whom, and what became of it."""
    below = _kv(path)

    async def do(calls: SecretCalls) -> dict[str, Any]:
        found = _there(await calls("GET", f"secret/metadata/{below}"), path).data
        versions = [
            {"version": int(number), **each, "newest": int(number) == found["current_version"]}
            for number, each in sorted(found["versions"].items(), key=lambda item: -int(item[0]))
        ]
        return {"path": f"secret/{below}", "versions": versions, "max_versions": found["max_versions"]}

    def tell(data: dict[str, Any]) -> None:
        for each in data["versions"]:
            state = (
                "destroyed"
                if each["destroyed"]
                else f"deleted {each['deletion_time']}"
                if each["deletion_time"]
                else "newest"
                if each["newest"]
                else "kept"
            )
            by = f"  by {each['created_by']['actor']}" if each.get("created_by") else ""
            console.print(f"{each['version']:>4}  {each['created_time']}  {state}[dim]{escape(by)}[/]")

    _run("secret-history", do, tell, address, server_socket, output)


def rollback(
    path: PathArgument,
    version: Annotated[
        int, typer.Argument(metavar="VERSION", min=1, help="Which one is to be the newest again.")
    ],
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an older version the newest again, as a version of its own."""
    below = _kv(path)

    async def do(calls: SecretCalls) -> dict[str, Any]:
        found = _there(await calls("POST", f"secret/rollback/{below}", {"version": version}), path)
        return {"path": f"secret/{below}", "version": found.data["version"], "from": version}

    def tell(data: dict[str, Any]) -> None:
        console.print(f"{escape(data['path'])} version {data['version']}, as {data['from']} was")

    _run("secret-rollback", do, tell, address, server_socket, output)


def delete(
    path: PathArgument,
    versions: VersionsOption = None,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete versions, so that nobody reads them until they are undeleted."""

    async def do(calls: SecretCalls) -> dict[str, Any]:
        if versions:
            await calls("POST", f"secret/delete/{_kv(path)}", {"versions": versions})
        else:
            await calls("DELETE", f"secret/data/{_kv(path)}")
        return {"path": f"secret/{_kv(path)}", "versions": versions or None}

    _run("secret-delete", do, _tell("deleted"), address, server_socket, output)


def undelete(
    path: PathArgument,
    versions: Annotated[list[int], typer.Option("--version", min=1, help="Which version. Repeatable.")],
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Take back the deletion of versions."""
    _of_versions("undelete", "undeleted", path, versions, address, server_socket, output)


def destroy(
    path: PathArgument,
    versions: Annotated[
        list[int] | None, typer.Option("--version", min=1, help="Which version. Repeatable.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All versions, and that there ever were any.")] = False,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Destroy versions for good: no undelete brings them back, only a backup."""
    if all_ == bool(versions):
        raise _usage(output, "destroy wants --version N, or --all")
    if versions:
        _of_versions("destroy", "destroyed", path, versions, address, server_socket, output)
        return

    async def do(calls: SecretCalls) -> dict[str, Any]:
        await calls("DELETE", f"secret/metadata/{_kv(path)}")
        return {"path": f"secret/{_kv(path)}", "versions": None}

    _run("secret-destroy", do, _tell("destroyed"), address, server_socket, output)


def rotate(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A secret, database/static-creds/ROLE, database/config/NAME or transit/keys/KEY.",
        ),
    ],
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Of a secret: the field that gets a new random value. Repeatable."),
    ] = None,
    address: AddressOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Replace a value by a new one: a secret's field, a database role's password, a root password, a key.

    Of a secret the new value is made here, of 32 letters and digits, and shown nowhere.
    """

    async def do(calls: SecretCalls) -> dict[str, Any]:
        mount, _, rest = _logical(path).partition("/")
        if mount == "secret":
            return await _rotated(calls, rest, fields or [])
        target = _ROTATES.get((mount, rest.partition("/")[0]))
        if target is None or fields or not rest.partition("/")[2]:
            raise USAGE.error(f"{path[:100]!r} is nothing that is rotated")
        await calls("POST", target.format(rest.partition("/")[2]))
        return {"path": f"{mount}/{rest}", "version": None}

    def tell(data: dict[str, Any]) -> None:
        version = f" version {data['version']}" if data["version"] else ""
        console.print(f"{escape(data['path'])}{version}: rotated")

    _run("secret-rotate", do, tell, address, server_socket, output)


_ROTATES = {
    ("database", "static-creds"): "database/rotate-role/{}",
    ("database", "static-roles"): "database/rotate-role/{}",
    ("database", "config"): "database/rotate-root/{}",
    ("transit", "keys"): "transit/keys/{}/rotate",
}


async def _rotated(calls: SecretCalls, below: str, fields: list[str]) -> dict[str, Any]:
    if not fields:
        raise USAGE.error(
            "rotate wants --field for a secret", advice="Say which of its fields gets a new value."
        )
    there = _there(await calls("GET", f"secret/metadata/{below}"), below).data["current_version"]
    body = {"options": {"cas": there}, "data": {name: generated() for name in fields}}
    found = _there(await calls("PATCH", f"secret/data/{below}", body), below)
    return {"path": f"secret/{below}", "version": found.data["version"]}


def _of_versions(
    what: str,
    done: str,
    path: str,
    versions: list[int],
    address: str | None,
    server_socket: Path | None,
    output: Output,
) -> None:
    async def do(calls: SecretCalls) -> dict[str, Any]:
        await calls("POST", f"secret/{what}/{_kv(path)}", {"versions": versions})
        return {"path": f"secret/{_kv(path)}", "versions": versions}

    _run(f"secret-{what}", do, _tell(done), address, server_socket, output)


def _tell(done: str) -> Callable[[dict[str, Any]], None]:
    def tell(data: dict[str, Any]) -> None:
        numbers = f" version {', '.join(map(str, data['versions']))}" if data["versions"] else ""
        console.print(f"{escape(data['path'])}{numbers}: {done}")

    return tell


def _there(found: Found, path: str) -> Found:
    if found.status == 404:
        raise NO_SUCH_SECRET.error(f"there is no {path}, or that version is gone")
    return found


def _logical(path: str) -> str:
    try:
        from vestibule.cli.secret_explanations import logical_path
    except ModuleNotFoundError as error:
        raise MISSING_EXTRA.error(f"secret needs {error.name}, which is not installed") from error
    return logical_path(path)


def _kv(path: str) -> str:
    """``payments/db``, also of ``secret/payments/db``."""
    return path.strip("/").removeprefix("secret/")


def _usage(output: Output, message: str) -> typer.Exit:
    async def main() -> Exit:
        raise USAGE.error(message)

    try:
        run(output, "secret", main)
    except typer.Exit as ended:
        return ended
    return typer.Exit(int(Exit.USAGE))


def _run(
    schema: str,
    do: _Do,
    tell: Callable[[dict[str, Any]], None],
    address: str | None,
    server_socket: Path | None,
    output: Output,
    fine: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> None:
    async def main() -> Exit:
        async with secret_calls(server_socket, address) as calls:
            data = await do(calls)
        answer(output, schema, data, lambda: tell(data))
        return Exit.FINE if fine(data) else Exit.FINDINGS

    run(output, schema, main)
