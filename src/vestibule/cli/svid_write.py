"""``vestibule svid write``: SVIDs in files for programs that read files, once or for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.option_groups import in_groups
from vestibule.cli.output import Exit, Output, OutputOption, answer, complain, console, run
from vestibule.cli.sockets import AgentSocketOption
from vestibule.cli.svid_files import existing_directory, parse_owner
from vestibule.cli.svid_options import FileOptions, ReloadOptions, endpoint_of, warnings_shown
from vestibule.errors import VestibuleError
from vestibule.processes.signals import Shutdown
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.codes import NOT_TOLD
from vestibule.sdk.files.contents import Layout
from vestibule.sdk.files.directory import Owner
from vestibule.sdk.files.health import HealthDoor, HealthPages
from vestibule.sdk.files.helper import DEFAULT_ADDRESS, HelperConfiguration, read_helper_configuration
from vestibule.sdk.files.keeping import Keeper
from vestibule.sdk.files.reload import OnFailure, Reload


@dataclass(frozen=True)
class PlaceOptions:
    """Whose the files are, and how they stand in their directory."""

    owner: Annotated[str, typer.Option("--owner", metavar="USER", help="Whose the files become.")] = ""
    group: Annotated[str, typer.Option("--group", metavar="GROUP", help="Their group.")] = ""
    plain: Annotated[
        bool, typer.Option("--plain", help="Regular files instead of links into DIR/current.")
    ] = False
    keep_withdrawn: Annotated[
        bool,
        typer.Option("--keep-withdrawn", help="Leave keys and tokens of an identity that was taken away."),
    ] = False


@dataclass(frozen=True)
class HealthOptions:
    """Pages for probes."""

    health_port: Annotated[
        int | None, typer.Option("--health-port", min=0, max=65535, help="Serve /live and /ready there.")
    ] = None
    health_host: Annotated[str, typer.Option("--health-host", help="On this address.")] = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be done, wherever it was written down."""

    directory: Path
    endpoint: Endpoint
    layout: Layout
    reload: Reload
    follow: bool
    wait: float
    health: HealthPages | None
    owner: Owner
    plain: bool
    keep_withdrawn: bool


@in_groups
def write(
    files: FileOptions,
    told: ReloadOptions,
    place: PlaceOptions,
    health: HealthOptions,
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="An existing directory.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep the files current until interrupted.")
    ] = False,
    wait: Annotated[
        str, typer.Option("--wait", help="Without --follow: how long to wait for agent and identity.")
    ] = "0s",
    helper_config: Annotated[
        Path | None,
        typer.Option("--helper-config", metavar="FILE", help="A configuration of spiffe-helper (HCL, JSON)."),
    ] = None,
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Write svid.N.pem, svid.N.key (mode 0600) and bundle.N.pem, N counting from 0, for what reads files.

    With --cert, --key, --bundle or other names, one identity under these names: the default one, or that of --hint.
    All files are replaced at once: DIR/current is a link to a directory with one whole set, DIR/NAME a link through it.
    """

    async def main() -> Exit:
        patience = 0.0 if wait == "0s" else parse_duration(wait).total_seconds()
        if helper_config is not None:
            if files != FileOptions() or told != ReloadOptions() or directory is not None or follow:
                raise USAGE.error(
                    "--helper-config says which files there are, where, and who is told",
                    advice="Leave DIR, --follow and the options of files and renewal out.",
                )
            configuration = read_helper_configuration(helper_config)
            job = _of_helper(configuration, place, health, patience, agent_socket)
        else:
            if directory is None:
                raise USAGE.error("it needs a directory", advice="vestibule svid write DIR")
            job = _Job(
                directory=directory,
                layout=files.layout(),
                reload=told.reload(),
                follow=follow,
                wait=patience,
                health=_pages(health),
                owner=parse_owner(place.owner, place.group),
                plain=place.plain,
                keep_withdrawn=place.keep_withdrawn,
                # Last: what is wrong with the options is told where no agent runs, too.
                endpoint=endpoint_of(agent_socket, must_exist=not follow and not patience),
            )
        return await _do(job, output)

    run(output, "svid-files", main)


def _pages(health: HealthOptions) -> HealthPages | None:
    if health.health_port is None:
        return None
    return HealthPages(host=health.health_host, port=health.health_port)


def _of_helper(
    found: HelperConfiguration,
    place: PlaceOptions,
    health: HealthOptions,
    patience: float,
    agent_socket: Path | None,
) -> _Job:
    if found.address:
        endpoint = Endpoint.parse(found.address)
    elif agent_socket is None and Path(DEFAULT_ADDRESS).exists():
        endpoint = Endpoint(path=DEFAULT_ADDRESS)
    else:
        endpoint = endpoint_of(agent_socket, must_exist=not found.daemon and not patience)
    pages = found.health and replace(found.health, host=health.health_host)
    return _Job(
        directory=found.directory,
        endpoint=endpoint,
        layout=found.layout,
        reload=found.reload,
        follow=found.daemon,
        wait=patience,
        health=_pages(health) or pages,
        owner=parse_owner(place.owner, place.group),
        plain=place.plain,
        keep_withdrawn=place.keep_withdrawn,
    )


async def _do(job: _Job, output: Output) -> Exit:
    if job.health is not None and not job.follow:
        raise USAGE.error(
            "health pages are for what stays", advice="Add --follow, or leave --health-port out."
        )
    with warnings_shown(), existing_directory(job.directory, owner=job.owner, linked=not job.plain) as here:
        keeper = Keeper(
            job.layout,
            here,
            job.endpoint,
            reload=job.reload,
            keep_withdrawn=job.keep_withdrawn,
            on_written=lambda written: _report(written, output),
        )
        if job.follow:
            return await _follow(keeper, job.health)
        return await _once(keeper, job)


async def _once(keeper: Keeper, job: _Job) -> Exit:
    try:
        await keeper.once(job.wait)
    except VestibuleError as error:
        if error.code is not NOT_TOLD:
            raise
        complain(error)
        return Exit.FINE if job.reload.on_failure is OnFailure.CONTINUE else Exit.FINDINGS
    return Exit.FINE


async def _follow(keeper: Keeper, pages: HealthPages | None) -> Exit:
    with Shutdown() as shutdown:
        jobs = {asyncio.create_task(keeper.follow(), name="svid-files")}
        if pages is not None:
            jobs.add(asyncio.create_task(HealthDoor(pages, keeper).run(), name="svid-files-health"))
        asked = asyncio.create_task(_until(shutdown.drain), name="shutdown")
        try:
            await asyncio.wait({*jobs, asked}, return_when=asyncio.FIRST_COMPLETED)
            for ended in jobs:
                if ended.done():
                    await ended  # nothing of this ends by itself but by an error
        finally:
            for each in (*jobs, asked):
                each.cancel()
            await asyncio.gather(*jobs, asked, return_exceptions=True)
    return Exit.FINE


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _report(written: Sequence[Path], output: Output) -> None:
    data = {"files": [str(path) for path in written]}
    answer(output, "svid-files", data, lambda: console.print(*written, sep="\n"))
