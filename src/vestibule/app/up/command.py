"""``vestibule up``: a whole mesh on this machine, from one directory."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vestibule.cli.codes import MISSING_EXTRA, USAGE
from vestibule.cli.output import (
    Exit,
    Output,
    OutputOption,
    complain,
    complaints,
    console,
    envelope,
    run,
)
from vestibule.cli.run_state import STATE_DIRECTORY
from vestibule.records import Boundary

if TYPE_CHECKING:
    from vestibule.app.up.mesh import Mesh
    from vestibule.app.up.once import Report
    from vestibule.app.up.plan import Plan
    from vestibule.app.up.proofs.proof import Outcome
    from vestibule.app.up.timeline import Timeline
    from vestibule.intent import Problem

DirectoryArgument = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="mesh.yaml, services/ and up.yaml; without it, the example shop."),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--environment", metavar="NAME", help="Which of environments/, if there are several."),
]
CommittedOption = Annotated[
    bool, typer.Option("--committed", help="Follow the commits of DIR's branch instead of its files.")
]
LocalityOption = Annotated[
    str, typer.Option("--locality", metavar="REGION[/ZONE]", help="Where this node is said to be.")
]
OnceOption = Annotated[bool, typer.Option("--once", help="Run a copy, prove every promise, stop.")]
BoundaryOption = Annotated[
    Boundary | None,
    typer.Option("--boundary", help="trust, unix or guard (as root), whatever up.yaml says."),
]
StateOption = Annotated[Path, typer.Option("--state", metavar="DIR", help="Where state and logs are kept.")]


def up(
    directory: DirectoryArgument = None,
    environment: EnvironmentOption = None,
    committed: CommittedOption = False,
    locality: LocalityOption = "",
    once: OnceOption = False,
    boundary: BoundaryOption = None,
    state: StateOption = STATE_DIRECTORY,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run server, agent, sidecars and apps from an intent directory, each as a process of its own.

    With --once: prove, one by one, what the mesh promises, and exit 0 only if all of it holds.
    """
    if once and (committed or locality):
        raise typer.BadParameter(
            "a copy of the files is proven; --committed and --locality are for runs that stay"
        )
    from vestibule.app.up.timeline import Timeline

    timeline = Timeline(since_process_start=True)

    async def main() -> Exit:
        try:
            from vestibule.app.up.committed import Committed
            from vestibule.app.up.plan import find_directory, make_plan
        except ModuleNotFoundError as error:
            raise MISSING_EXTRA.error(f"up needs {error.name}, which is not installed") from error
        plan = make_plan(find_directory(directory), environment, boundary)
        if isinstance(plan, tuple):
            _refuse(output, plan)
            return Exit.FINDINGS
        plan = replace(
            plan, locality=locality, committed=Committed.around(plan.directory) if committed else None
        )
        for warning in plan.problems:
            complaints.print(f"[yellow]![/] {escape(str(warning.error))}")
        if plan.boundary is Boundary.NETNS:
            raise USAGE.error("up has no boundary netns: one machine's loopback is what it runs on")
        timeline.reached("plan")
        if once:
            return await _once(plan, state.absolute(), timeline, output)
        await _stay(plan, state.absolute(), timeline, output)
        return Exit.FINE

    run(output, "up", main)


def _refuse(output: Output, problems: tuple[Problem, ...]) -> None:
    """Every problem of the directory, at once."""
    errors = [each.error for each in problems]
    if output is Output.JSON:
        sys.stdout.write(envelope("up", None, errors) + "\n")
        return
    for error in errors:
        complain(error)


async def _once(plan: Plan, state: Path, timeline: Timeline, output: Output) -> Exit:
    from vestibule.app.up.once import run_once
    from vestibule.app.up.places import ONCE, Tenancy
    from vestibule.processes import private_directory

    private_directory(state)
    Tenancy(state).clean_up_quietly()
    text = output is Output.TEXT
    if text:
        console.print(f"[bold]{escape(plan.intent.mesh.name)}[/]: {', '.join(plan.services)}")
    began = time.monotonic()
    report = await run_once(
        plan,
        state / ONCE,
        timeline,
        tell=_show_outcome if text else _say_nothing,
        ready=_show_ready if text else _say_nothing,
    )
    if text:
        _show_end(report, time.monotonic() - began, state / ONCE / "logs")
    else:
        errors = [report.error] if report.error is not None else []
        sys.stdout.write(envelope("up", report.document, errors) + "\n")
    return Exit.FINE if report.holds else Exit.FINDINGS


def _say_nothing(_: object) -> None:
    """JSON is printed once, at the end."""


def _show_ready(timeline: Timeline) -> None:
    console.print(f"ready: {escape(str(timeline))}\n")


def _show_outcome(outcome: Outcome) -> None:
    mark = "[bold green]✓[/]" if outcome.ok else "[bold red]✗[/]"
    console.print(f"{mark} [bold]{outcome.id}[/]  {escape(outcome.claim)}  [dim]{outcome.seconds:.1f} s[/]")
    console.print(f"  [dim]{escape(outcome.detail)}[/]" if outcome.ok else f"  {escape(outcome.detail)}")


def _show_end(report: Report, seconds: float, logs: Path) -> None:
    if report.error is not None:
        complain(report.error)
    held = sum(each.ok for each in report.outcomes)
    verdict = (
        "[bold green]all hold[/]"
        if report.holds
        else f"[bold red]{len(report.outcomes) - held} do not hold[/]"
    )
    ready = f"ready after {report.ready_seconds:.2f} s, " if report.ready_seconds is not None else ""
    console.print(
        f"\n{len(report.outcomes)} proofs: {verdict}  ({ready}{seconds:.0f} s in all; logs: {logs})"
    )


async def _stay(plan: Plan, state: Path, timeline: Timeline, output: Output) -> None:
    """Run until a signal.  On the way out everything stops in order; a second signal cuts that short."""
    from vestibule.app.up.holding import while_running
    from vestibule.app.up.journal import journal
    from vestibule.app.up.live import View
    from vestibule.app.up.mesh import Mesh
    from vestibule.app.up.places import ONCE, Tenancy
    from vestibule.processes import Shutdown

    Tenancy(state / ONCE).clean_up_quietly()
    tenancy = Tenancy(state)
    places = tenancy.take()
    try:
        with Shutdown() as shutdown, journal(places.logs):
            mesh = Mesh(plan, places, tenancy.ledger, timeline)
            showing = View(mesh, console).run() if output is Output.TEXT else _announce(mesh)
            await while_running(mesh, shutdown, showing)
    finally:
        tenancy.give_back(places)


async def _announce(mesh: Mesh) -> None:
    """For programs: one envelope once everything is ready, then nothing until the end."""
    await mesh.ready.wait()
    data = {
        "ready_seconds": mesh.timeline.reached("sidecars"),
        "parts": dict(mesh.timeline.milestones),
        "server_socket": str(mesh.places.server_socket),
        "agent_socket": str(mesh.places.agent_socket),
        "admin_socket": str(mesh.places.admin_socket),
        "egress": {each.kept.name: str(each.where.egress) for each in mesh.sidecars},
        "ingress": {
            each.kept.name: {name: str(address) for name, address in each.where.ingress.items()}
            for each in mesh.sidecars
        },
        "gateways": {
            each.kept.name: {name: str(address) for name, address in each.where.ingress.items()}
            for each in mesh.gateways
        },
    }
    sys.stdout.write(envelope("up", data) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
