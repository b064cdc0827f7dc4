"""``vestibule import``: others' documents as files of an intent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.output import Exit, Output, OutputOption, answer, complaints, console, run

if TYPE_CHECKING:
    from vestibule.intent.importing import Imported, Source
    from vestibule.intent.lone.moving import Moved
    from vestibule.intent.problems import Problem

FilesArgument = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="YAML files with the documents; - is standard input.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where the files go; shown instead when it is left out."),
]
MeshOption = Annotated[str, typer.Option("--mesh", metavar="NAME", help="The mesh's name.")]
DomainOption = Annotated[
    str, typer.Option("--trust-domain", metavar="NAME", help="What takes the place of cluster.local.")
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--environment",
        metavar="NAME",
        help="The namespace that is imported, which becomes the environment. [default: the only one]",
    ),
]


def istio(
    files: FilesArgument,
    out: OutOption = None,
    mesh: MeshOption = "imported",
    trust_domain: DomainOption = "cluster.local",
    environment: NamespaceOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an intent of Istio's documents, and tell what could not be carried over.

    VirtualService, DestinationRule, AuthorizationPolicy, ServiceEntry, PeerAuthentication, and Service for its ports.
    Nothing allows a call that was not allowed before.  Exits 1 if anything was left out.
    """
    from vestibule.intent.importing import Source

    _import(Source.ISTIO, files, out, (mesh, trust_domain, environment), output)


def gateway_api(
    files: FilesArgument,
    out: OutOption = None,
    mesh: MeshOption = "imported",
    trust_domain: DomainOption = "cluster.local",
    environment: NamespaceOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an intent of Gateway API's routes between services, and tell what could not be carried over.

    HTTPRoute and GRPCRoute whose parent is a Service, and Service for its ports.  Exits 1 if anything was left out.
    """
    from vestibule.intent.importing import Source

    _import(Source.GATEWAY_API, files, out, (mesh, trust_domain, environment), output)


def sidecars(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="The files of lone sidecars, all that belong together."),
    ],
    out: OutOption = None,
    mesh: Annotated[
        str | None,
        typer.Option("--mesh", metavar="NAME", help="The mesh's name. [default: what the files say]"),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an intent of the files of lone sidecars, and tell how each sidecar is started from now on.

    The same callers may make the same calls.  Exits 1 if there is anything to look at.
    """

    async def main() -> Exit:
        from vestibule.cli.lone_import import import_sidecars

        moved = import_sidecars(files, mesh)
        if out is not None and moved.files:
            _write(out, moved.files)
        commands = {name: " ".join(each) for name, each in moved.commands.items()}
        data = {
            "files": {name: _shown(each) for name, each in moved.files.items()},
            "directory": str(out) if out is not None and moved.files else None,
            "commands": commands,
            "findings": list(map(_finding, moved.problems)),
        }
        answer(output, "import", data, lambda: _show(moved, out, commands))
        return Exit.FINDINGS if moved.problems or not moved.files else Exit.FINE

    run(output, "import", main)


def _import(
    source: Source, files: list[str], out: Path | None, names: tuple[str, str, str | None], output: Output
) -> None:
    async def main() -> Exit:
        from vestibule.intent.importing import import_documents

        mesh, trust_domain, environment = names
        texts = [(name, _text(name)) for name in files]
        found = import_documents(source, texts, mesh=mesh, trust_domain=trust_domain, environment=environment)
        if out is not None and found.files:
            _write(out, found.files)
        data = {
            "files": dict(found.files),
            "directory": str(out) if out is not None and found.files else None,
            "findings": list(map(_finding, found.problems)),
        }
        answer(output, "import", data, lambda: _show(found, out))
        return Exit.FINDINGS if found.problems or not found.files else Exit.FINE

    run(output, "import", main)


def _finding(problem: Problem) -> dict[str, str]:
    return {
        "code": problem.code.code,
        "message": problem.message,
        "advice": problem.advice,
        "where": str(problem.where),
        "severity": problem.severity.value,
    }


def _shown(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode("utf-8", "replace")


def _text(name: str) -> str:
    from vestibule.intent.importing.codes import UNREADABLE_DOCUMENT

    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise UNREADABLE_DOCUMENT.error(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UNREADABLE_DOCUMENT.error(f"{name} is not UTF-8") from error


def _write(out: Path, files: Mapping[str, str | bytes]) -> None:
    from vestibule.intent.importing.codes import NOTHING_OVERWRITTEN

    taken = [name for name in files if (out / name).exists()]
    if taken:
        raise NOTHING_OVERWRITTEN.error(f"{out / taken[0]} exists")
    try:
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise NOTHING_OVERWRITTEN.error(f"cannot write {out}: {error.strerror}") from error


def _show(found: Imported | Moved, out: Path | None, commands: Mapping[str, str] | None = None) -> None:
    for each in found.problems:
        complaints.print(f"[bold yellow]![/] {escape(str(each.error))}")
    if not found.files:
        complaints.print("[bold red]✗[/] nothing was imported")
    elif out is not None:
        console.print(
            f"[bold green]✓[/] {len(found.files)} files in {escape(str(out))}; look at each before it is used"
        )
    else:
        for name, content in found.files.items():
            sys.stdout.write(f"# {name}\n{_shown(content)}\n")
    for command in (commands or {}).values():
        console.print(f"  {escape(command)} -- …")
