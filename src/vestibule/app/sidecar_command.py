"""``vestibule sidecar``: options in, one ready line out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vestibule.app.codes import LONE_OPTION
from vestibule.app.lone_print import print_lone
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, run
from vestibule.cli.sockets import AgentSocketOption, find_sockets
from vestibule.processes import find_user, private_directory
from vestibule.records import Boundary, Instance
from vestibule.telemetry.logs import set_up_logs


def sidecar(
    service: Annotated[
        str | None, typer.Option("--service", help="The service this app is an instance of.")
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="The app to start beside Envoy.")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", help="The gateway to be, instead; it has no app.")
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option("--static", metavar="FILE", help="Be guided by this file, without a control plane."),
    ] = None,
    only_print: Annotated[
        bool,
        typer.Option("--print", help="With --static: print an Envoy bootstrap for an Envoy of your own."),
    ] = False,
    access_log: Annotated[
        str,
        typer.Option(
            "--access-log", metavar="FILE|-|none", help="With --static: where a line for each request goes."
        ),
    ] = "-",
    agent_socket: AgentSocketOption = None,
    boundary: Annotated[
        Boundary, typer.Option("--boundary", help="How app and sidecar are kept apart from other processes.")
    ] = Boundary.TRUST,
    user: Annotated[
        str | None, typer.Option("--user", help="Whom the app runs as; the sidecar has to be root.")
    ] = None,
    proxy_user: Annotated[
        str | None,
        typer.Option("--proxy-user", help="Whom Envoy runs as; without it, the sidecar's own user."),
    ] = None,
    netns: Annotated[
        str | None,
        typer.Option(
            "--netns", metavar="NAME|PATH", help="With --boundary netns: an existing network namespace."
        ),
    ] = None,
    intercept: Annotated[
        bool, typer.Option("--intercept", help="Lead an unmodified app's traffic through the sidecar.")
    ] = False,
    intercept_port: Annotated[
        list[int] | None,
        typer.Option(
            "--intercept-port", metavar="PORT", help="With it, also the app's HTTP to this port anywhere."
        ),
    ] = None,
    app_port: Annotated[
        list[str] | None,
        typer.Option(
            "--app-port", metavar="NAME=PORT", help="Where the app listens for a port of the service."
        ),
    ] = None,
    ingress_port: Annotated[
        list[str] | None,
        typer.Option(
            "--ingress-port",
            metavar="NAME=PORT",
            help="Where other sidecars reach a port; else any free one.",
        ),
    ] = None,
    upstream_port: Annotated[
        list[str] | None,
        typer.Option(
            "--upstream-port", metavar="NAME=PORT", help="Where the app finds a service; else any free one."
        ),
    ] = None,
    egress_port: Annotated[
        int | None,
        typer.Option("--egress-port", metavar="PORT", help="The app's way out; else 15001, or any free one."),
    ] = None,
    version: Annotated[str, typer.Option("--version", help="The app's version, for routing.")] = "v1",
    ingress_host: Annotated[
        str, typer.Option("--ingress-address", help="The address at which other sidecars reach this one.")
    ] = "127.0.0.1",
    envoy: Annotated[
        Path | None, typer.Option("--envoy", help="An Envoy binary instead of the installed one.")
    ] = None,
    envoy_memory: Annotated[
        int,
        typer.Option("--envoy-memory", metavar="MIB", help="Memory at which Envoy refuses requests.", min=64),
    ] = 1024,
    envoy_files: Annotated[
        int | None,
        typer.Option(
            "--envoy-files", metavar="N", help="Descriptors of Envoy; else all it may have.", min=1024
        ),
    ] = None,
    envoy_workers: Annotated[
        int | None,
        typer.Option(
            "--envoy-workers", metavar="N", help="Envoy's worker threads; else half the processors.", min=1
        ),
    ] = None,
    allow_exposed: Annotated[
        bool, typer.Option("--allow-exposed", help="Register an app that listens beyond loopback.")
    ] = False,
    drain: Annotated[
        float, typer.Option("--drain", help="Seconds for requests in flight at the end.", min=0)
    ] = 5,
    attach_within: Annotated[
        float, typer.Option("--attach-within", help="Seconds to wait for the agent at the start.", min=0)
    ] = 60,
    ready_within: Annotated[
        float, typer.Option("--ready-within", help="Seconds until the app has to listen.", min=0)
    ] = 60,
    run_directory: Annotated[
        Path | None, typer.Option("--run-dir", help="Where private sockets go; a short path.")
    ] = None,
    log_directory: Annotated[
        Path | None, typer.Option("--log-dir", help="Where Envoy's log goes; else it ends with the sidecar.")
    ] = None,
    ca_bundle: Annotated[
        Path | None,
        typer.Option("--ca-bundle", help="Public authorities to trust instead of the system's (PEM)."),
    ] = None,
    supervisor_fd: Annotated[
        int | None,
        typer.Option("--supervisor-fd", help="For supervisors: where the granted key is read.", hidden=True),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stand beside an app: its identity, its mTLS, its way in and its way out.  Or be a gateway.

    The app finds PORT, http_proxy, VESTIBULE_UPSTREAM_... and SPIFFE_ENDPOINT_SOCKET in its environment.
    """
    from vestibule.app.sidecar import SidecarSettings, read_supervisor_key, run_sidecar
    from vestibule.app.sidecar_walls import WallSettings

    set_up_logs()

    async def main() -> Exit:
        if static is not None:
            if service or gateway or app_port or ingress_port or upstream_port:
                raise LONE_OPTION.error("--static says which service, and where its ports and upstreams are")
            if only_print:
                sockets = find_sockets(agent=agent_socket)
                return print_lone(static, sockets.agent.absolute(), _log(access_log), ca_bundle, output)
        elif only_print:
            raise LONE_OPTION.error("--print prints what --static FILE says")
        app_user = find_user(user) if user else None
        # Sockets that one of them opens have to be the other's, too.
        envoys_user = app_user if boundary is Boundary.UNIX else None
        walls = WallSettings(
            # Between a gateway and an app there is nothing that others could use: it has none.
            boundary=Boundary.UNIX if gateway is not None else boundary,
            netns=netns,
            intercept=intercept,
            intercept_ports=tuple(intercept_port or ()),
            app_user=app_user,
            proxy_user=find_user(proxy_user) if proxy_user else envoys_user,
        )
        if static is not None:
            from vestibule.app.lone_sidecar import LoneSettings, run_lone

            lone = LoneSettings(
                file=static.absolute(),
                agent_socket=find_sockets(agent=agent_socket).agent.absolute(),
                run_directory=(run_directory or _run_directory()).absolute(),
                access_log=_log(access_log),
                command=tuple(command or ()),
                base_environment=dict(os.environ),
                walls=walls,
                heap_bytes=envoy_memory << 20,
                files=envoy_files,
                workers=envoy_workers,
                envoy=envoy,
                allow_exposed=allow_exposed,
                log_directory=log_directory and log_directory.absolute(),
                ca_bundle=ca_bundle and ca_bundle.absolute(),
                attach_within=attach_within,
                ready_within=ready_within,
                drain=drain,
            )
            return Exit(await run_lone(lone, on_ready=lambda each: _tell_ready(each, output)))
        settings = SidecarSettings(
            service=_name(service, gateway, command or ()),
            gateway=gateway is not None,
            agent_socket=find_sockets(agent=agent_socket).agent.absolute(),
            run_directory=(run_directory or _run_directory()).absolute(),
            command=tuple(command or ()),
            base_environment=dict(os.environ),
            walls=walls,
            heap_bytes=envoy_memory << 20,
            files=envoy_files,
            workers=envoy_workers,
            app_ports=_ports("--app-port", app_port or ()),
            ingress_ports=_ports("--ingress-port", ingress_port or ()),
            upstream_ports=_ports("--upstream-port", upstream_port or ()),
            egress_port=egress_port,
            version=version,
            supervisor_key=None if supervisor_fd is None else read_supervisor_key(supervisor_fd),
            envoy=envoy,
            allow_exposed=allow_exposed,
            ingress_host=ingress_host,
            log_directory=log_directory and log_directory.absolute(),
            ca_bundle=ca_bundle and ca_bundle.absolute(),
            attach_within=attach_within,
            ready_within=ready_within,
            drain=drain,
        )
        return Exit(await run_sidecar(settings, on_ready=lambda each: _tell_ready(each, output)))

    run(output, "sidecar-ready", main)


def replace_envoy(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Whose sidecars, of this machine.")],
    envoy: Annotated[
        Path | None, typer.Option("--envoy", help="The Envoy to go on with; without it, the one that runs.")
    ] = None,
    run_directory: Annotated[
        Path | None, typer.Option("--run-dir", help="The --run-dir of the sidecars.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Put a new Envoy in the place of one that serves: another version, or the same one afresh.

    No request fails for it.  One sidecar after the other; the first new Envoy that does not become ready ends it, and
    the old one goes on.
    """
    from vestibule.app.sidecar_control import ask

    set_up_logs()

    async def main() -> Exit:
        directory = (run_directory or _run_directory()).absolute()
        question = {"do": "replace-envoy", "envoy": str(envoy.absolute()) if envoy else None}
        answers = await ask(directory, service, question)
        shown = [
            {"instance": each["instance"], "version": each["version"], "envoy": each["envoy"]}
            for each in answers
        ]
        lines = [
            f"{each['instance']}: Envoy {each['version']} has taken over ({each['envoy']})" for each in shown
        ]
        answer(output, "replace-envoy", shown, lambda: typer.echo("\n".join(lines)))
        return Exit.FINE

    run(output, "replace-envoy", main)


def _name(service: str | None, gateway: str | None, command: Sequence[str]) -> str:
    name = service or gateway
    if name is None or (service and gateway):
        raise USAGE.error("say either --service NAME or --gateway NAME")
    if gateway and command:
        raise USAGE.error("a gateway has no app to start")
    return name


def _log(text: str) -> str:
    """A file, ``-``, or empty for none."""
    return {"none": "", "-": "-"}.get(text, str(Path(text).absolute()))


def _tell_ready(instance: Instance, output: Output) -> None:
    """One line of ``key=value``, for people and for supervisors; or the same as JSON."""
    from vestibule.app.sidecar import READY

    facts = {"service": instance.service, "instance": instance.id, "spiffe_id": instance.spiffe_id}
    facts |= {f"ingress.{name}": address for name, address in instance.ingress.items()}
    facts |= {f"app.{name}": address for name, address in instance.apps.items()}
    facts |= {"egress": instance.egress or "", "boundary": instance.boundary.value}
    line = f"{READY} " + " ".join(f"{name}={value}" for name, value in facts.items())
    data = {name: str(value) for name, value in facts.items()}
    answer(output, "sidecar-ready", data, lambda: typer.echo(line))


def _ports(option: str, texts: Sequence[str]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name or not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
            raise USAGE.error(f"{option} {text!r} is not NAME=PORT, such as http=8080")
        if name in ports:
            raise USAGE.error(f"{option} names {name!r} twice")
        ports[name] = int(number)
    return ports


def _run_directory() -> Path:
    """Where this user's sidecars keep their sockets: the runtime directory, or a private one of their own."""
    if os.geteuid() == 0:
        return Path("/run/vestibule")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "vestibule"
    return private_directory(Path(tempfile.gettempdir()) / f"vestibule-{os.geteuid()}")
