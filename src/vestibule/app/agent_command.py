"""``vestibule agent run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.agent.rebootstrap import Rebootstrap
from vestibule.app.codes import INVALID_SETTING
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, OutputOption, answer, console
from vestibule.cli.output import run as run_command
from vestibule.cli.sockets import ADMIN_SOCKET, AGENT_SOCKET, runtime_directory
from vestibule.processes.hardening import keep_memory_private
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.telemetry.logs import LogFormat, set_up_logs

READY: Final = "agent ready:"


def run(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", help="Where the settings not given here are; YAML.")
    ] = None,
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Such as example.org.")] = "",
    server: Annotated[
        str, typer.Option("--server", metavar="HOST:PORT", help="The server's gRPC port.")
    ] = "",
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Sealed SVIDs, what Envoys need in an outage, access log.")
    ] = Path("/var/lib/vestibule/agent"),
    socket: Annotated[
        Path | None, typer.Option("--socket", help="The public socket: Workload API, SDS and more.")
    ] = None,
    admin_socket: Annotated[
        Path | None, typer.Option("--admin-socket", help="The operator's private socket.")
    ] = None,
    join_token_file: Annotated[
        Path | None,
        typer.Option("--join-token-file", help="File (mode 0600) or /dev/fd/N with a join token."),
    ] = None,
    trust_bundle: Annotated[
        Path | None,
        typer.Option("--trust-bundle", help="First trust: the server's bundle, PEM or SPIFFE JSON."),
    ] = None,
    trust_bundle_sha256: Annotated[
        str, typer.Option("--trust-bundle-sha256", metavar="HEX", help="First trust: the bundle's hash.")
    ] = "",
    insecure_bootstrap: Annotated[
        bool, typer.Option("--insecure-bootstrap", help="First trust: believe whoever answers first.")
    ] = False,
    rebootstrap: Annotated[
        Rebootstrap,
        typer.Option(
            "--rebootstrap",
            help="When the server's authorities are none that this agent knows any more: ask the first trust again? "
            "auto: once the agent's SVID has expired, and only for a bundle file or its hash.",
        ),
    ] = Rebootstrap.AUTO,
    rebootstrap_delay: Annotated[
        str, typer.Option("--rebootstrap-delay", help="For how long the server must be unknown before that.")
    ] = "10m",
    kek_file: Annotated[
        Path | None,
        typer.Option("--kek-file", help="The key that seals what is kept. [default: DATA_DIR/kek]"),
    ] = None,
    health: Annotated[
        str, typer.Option("--health", metavar="HOST:PORT|off", help="/live /ready /metrics.")
    ] = "off",
    workload_attestor: Annotated[
        list[str] | None,
        typer.Option(
            "--workload-attestor",
            metavar="NAME[=KEY=VALUE,...]",
            help="How workloads are known, repeatable: unix, systemd, docker, k8s. [default: unix]",
        ),
    ] = None,
    node_attestor: Annotated[
        str,
        typer.Option(
            "--node-attestor",
            metavar="NAME[=KEY=VALUE,...]",
            help="How this node proves itself: join_token, x509pop, http_challenge, k8s_psat, gcp_iit, aws_iid. "
            "[default: join_token]",
        ),
    ] = "",
    attestors: Annotated[
        Path | None,
        typer.Option("--attestors", help="YAML file with workload_attestors and node_attestor; options win."),
    ] = None,
    delegation_socket: Annotated[
        Path | None,
        typer.Option("--delegation-socket", help="A socket for delegates. [default: there is none]"),
    ] = None,
    authorized_delegate: Annotated[
        list[str] | None,
        typer.Option(
            "--authorized-delegate",
            metavar="SPIFFE_ID",
            help="Who may ask there for identities of other workloads, repeatable.",
        ),
    ] = None,
    experimental_wit_svids: Annotated[
        bool,
        typer.Option(
            "--experimental-wit-svids",
            help="Serve WIT-SVIDs, too: tokens bound to a key. The standard is not finished.",
        ),
    ] = False,
    locality: Annotated[
        str, typer.Option("--locality", metavar="REGION[/ZONE]", help="Where this node is.")
    ] = "",
    sds_default_svid_name: Annotated[
        str, typer.Option("--sds-default-svid-name", help="What Envoys call their first identity.")
    ] = "default",
    sds_default_bundle_name: Annotated[
        str, typer.Option("--sds-default-bundle-name", help="What Envoys call the trust domain's bundle.")
    ] = "ROOTCA",
    sds_default_all_bundles_name: Annotated[
        str, typer.Option("--sds-default-all-bundles-name", help="What Envoys call all bundles together.")
    ] = "ALL",
    disable_spiffe_cert_validation: Annotated[
        bool,
        typer.Option(
            "--disable-spiffe-cert-validation",
            help="Tell Envoys plain authorities, without Envoy's SPIFFE validator.",
        ),
    ] = False,
    supervisor_fd: Annotated[
        int | None,
        typer.Option(
            "--supervisor-fd",
            hidden=True,
            help="For supervisors: a connected socket over which keys are granted.",
        ),
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="Of the log lines.")] = LogFormat.TEXT,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the agent of this node until it is told to stop.

    At its first start it needs a join token and one of the three ways to know the server.
    """
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    set_up_logs(log_level, log_format)
    keep_memory_private()

    import uvloop

    from vestibule.agent.bootstrap import FirstTrust
    from vestibule.app.agent import run_agent
    from vestibule.app.agent_attestors import chosen_attestors
    from vestibule.app.agent_settings import agent_settings
    from vestibule.doors.sds_secrets import SdsSettings
    from vestibule.processes.signals import Shutdown

    async def main() -> Exit:
        try:
            sds = SdsSettings(
                default_svid_name=sds_default_svid_name,
                default_bundle_name=sds_default_bundle_name,
                default_all_bundles_name=sds_default_all_bundles_name,
                disable_spiffe_cert_validation=disable_spiffe_cert_validation,
            )
        except ValueError as error:
            raise INVALID_SETTING.error(str(error)) from error
        chosen = chosen_attestors(attestors, workload_attestor or (), node_attestor)
        told: dict[str, Any] = {
            "data_dir": data_dir.expanduser().absolute(),
            "socket_path": (socket or runtime_directory() / AGENT_SOCKET).absolute(),
            "admin_socket_path": (admin_socket or runtime_directory() / ADMIN_SOCKET).absolute(),
            "first_trust": FirstTrust(
                bundle_file=trust_bundle, bundle_sha256=trust_bundle_sha256, insecure=insecure_bootstrap
            ),
            "rebootstrap": rebootstrap,
            "rebootstrap_delay": parse_duration(rebootstrap_delay),
            "join_token_file": join_token_file,
            "kek_file": kek_file,
            "supervisor_fd": supervisor_fd,
            "health": None if health == "off" else _address("--health", health),
            "workload_attestors": chosen.workload,
            "node_attestor": chosen.node,
            "delegation_socket_path": delegation_socket.absolute() if delegation_socket else None,
            "sds": sds,
            "experimental_wit_svids": experimental_wit_svids,
            "locality": locality,
            "authorized_delegates": tuple(map(SpiffeId.parse, authorized_delegate or ())),
        }
        if trust_domain:
            told["trust_domain"] = TrustDomain.parse(trust_domain)
        if server:
            told["server"] = _address("--server", server)
        settings = agent_settings(told, lambda option: _is_given(context, option), config)

        def ready(spiffe_id: SpiffeId) -> None:
            data = {"spiffe_id": str(spiffe_id), "socket": str(settings.socket_path)}
            line = f"{READY} {spiffe_id} on {settings.socket_path}"
            answer(output, "agent-ready", data, lambda: console.print(line))

        with Shutdown() as shutdown:
            await run_agent(settings, on_ready=ready, shutdown=shutdown)
        return Exit.FINE

    run_command(output, "agent-ready", main, loop=uvloop.new_event_loop)


def _is_given(context: typer.Context, option: str) -> bool:
    """Whether an option was said, rather than left to its default."""
    named = next((each.name for each in context.command.params if option in each.opts), None)
    source = context.get_parameter_source(named) if named else None
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _address(option: str, text: str) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise INVALID_SETTING.error(f"{option}: {error}") from error
    if address.path:
        raise INVALID_SETTING.error(f"{option} is HOST:PORT, not a socket")
    return address
