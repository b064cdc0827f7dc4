"""``vestibule server run``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.git_settings import ForcePush
from vestibule.app.server_settings import KeyStorage, ServerSettings, Upstream, server_settings
from vestibule.cli.output import Exit, Output, OutputOption, answer
from vestibule.cli.output import run as run_command
from vestibule.cli.sockets import SERVER_SOCKET, runtime_directory
from vestibule.processes.hardening import keep_memory_private
from vestibule.telemetry.logs import LogFormat, set_up_logs


class BundleEndpointProfile(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How the bundle endpoint proves who it is."""

    HTTPS_SPIFFE = "https_spiffe"
    HTTPS_WEB = "https_web"


_FILE: Final = "Where the settings not given here are; YAML."


def run(
    config: Annotated[Path | None, typer.Option("--config", help=_FILE)] = None,
    trust_domain: Annotated[str | None, typer.Option("--trust-domain", help="Such as example.org.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="State, keys and audit log.")] = None,
    socket: Annotated[Path | None, typer.Option("--socket", help="The operator's private socket.")] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="HOST:PORT", help="The gRPC port. [default: 0.0.0.0:8081]")
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            "--health", metavar="HOST:PORT|off", help="/live /ready /metrics. [default: 127.0.0.1:8082]"
        ),
    ] = None,
    intent: Annotated[
        Path | None,
        typer.Option("--intent", help="The directory of the mesh's intent; none: identities only."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="Which mesh, where the intent holds several."),
    ] = None,
    intent_git: Annotated[
        str | None,
        typer.Option("--intent-git", metavar="URL|PATH", help="Or the Git repository that holds it."),
    ] = None,
    intent_git_ref: Annotated[
        str | None, typer.Option("--intent-git-ref", help="Its branch, tag or commit. [default: main]")
    ] = None,
    intent_git_directory: Annotated[
        str | None, typer.Option("--intent-git-directory", help="Its folder that holds mesh.yaml.")
    ] = None,
    intent_git_poll: Annotated[
        str | None, typer.Option("--intent-git-poll", help="How often it is asked. [default: 10s]")
    ] = None,
    intent_git_webhook_secret: Annotated[
        Path | None,
        typer.Option("--intent-git-webhook-secret", help="A file, mode 600: serves POST /webhook/git."),
    ] = None,
    intent_git_allowed_signers: Annotated[
        Path | None,
        typer.Option(
            "--intent-git-allowed-signers", help="SSH keys, one of which must have signed a commit."
        ),
    ] = None,
    intent_git_allowed_keys: Annotated[
        Path | None,
        typer.Option("--intent-git-allowed-keys", help="OpenPGP keys, one of which must have signed it."),
    ] = None,
    intent_git_force_push: Annotated[
        ForcePush | None,
        typer.Option(
            "--intent-git-force-push", help="Whether rewritten history is followed. [default: refuse]"
        ),
    ] = None,
    intent_git_credentials: Annotated[
        Path | None,
        typer.Option("--intent-git-credentials", help="For https: a file, mode 600, with USER:TOKEN."),
    ] = None,
    intent_git_ssh_key: Annotated[
        Path | None, typer.Option("--intent-git-ssh-key", help="For SSH: the private key.")
    ] = None,
    intent_git_known_hosts: Annotated[
        Path | None, typer.Option("--intent-git-known-hosts", help="For SSH: the host's keys.")
    ] = None,
    intent_git_ca: Annotated[
        Path | None,
        typer.Option("--intent-git-ca", help="For https: authorities, PEM. [default: the system's]"),
    ] = None,
    intent_git_max_size: Annotated[
        str | None, typer.Option("--intent-git-max-size", help="The most that is fetched. [default: 1GiB]")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="file:PATH|env:NAME",
            help="Where the PostgreSQL connection string of several servers is. [default: SQLite in DATA_DIR]",
        ),
    ] = None,
    ca_ttl: Annotated[str | None, typer.Option("--ca-ttl", help="Such as 24h.")] = None,
    default_x509_svid_ttl: Annotated[
        str | None, typer.Option("--default-x509-svid-ttl", help="Such as 1h.")
    ] = None,
    default_jwt_svid_ttl: Annotated[
        str | None, typer.Option("--default-jwt-svid-ttl", help="Such as 5m.")
    ] = None,
    jwt_issuer: Annotated[
        str | None,
        typer.Option("--jwt-issuer", metavar="URL", help="Goes into JWT-SVIDs as iss. [default: none]"),
    ] = None,
    oidc: Annotated[
        str | None,
        typer.Option("--oidc", metavar="HOST:PORT|off", help="OpenID Connect discovery. [default: off]"),
    ] = None,
    oidc_tls_cert: Annotated[
        Path | None, typer.Option("--oidc-tls-cert", help="Its certificate, PEM; none: on loopback only.")
    ] = None,
    oidc_tls_key: Annotated[Path | None, typer.Option("--oidc-tls-key", help="Its private key, PEM.")] = None,
    disable_jwt_svids: Annotated[
        bool, typer.Option("--disable-jwt-svids", help="Issue X509-SVIDs only.")
    ] = False,
    allowed_jwt_claim: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-jwt-claim",
            help="A name, or a pattern such as org_*, that entries' claims may have. Repeatable. [default: *]",
        ),
    ] = None,
    template_identities: Annotated[
        int | None,
        typer.Option(
            "--template-identities",
            help="How many identities a template gives that does not say. [default: 100]",
        ),
    ] = None,
    ratelimit_attestation: Annotated[
        int | None,
        typer.Option(
            "--ratelimit-attestation",
            help="Attempts of nodes to join, per second and address; 0: no limit. [default: 20]",
        ),
    ] = None,
    ratelimit_signing: Annotated[
        int | None,
        typer.Option(
            "--ratelimit-signing", help="Signatures per second and agent; 0: no limit. [default: 500]"
        ),
    ] = None,
    admin_id: Annotated[
        list[str] | None,
        typer.Option("--admin-id", help="An identity that is a full administrator. Repeatable."),
    ] = None,
    experimental_wit_svids: Annotated[
        bool,
        typer.Option(
            "--experimental-wit-svids",
            help="Issue WIT-SVIDs, too: tokens bound to a key. The standard is not finished.",
        ),
    ] = False,
    bundle_endpoint: Annotated[
        str | None,
        typer.Option(
            "--federation-bundle-endpoint",
            metavar="HOST:PORT|off",
            help="Our trust bundle, for other trust domains. [default: off]",
        ),
    ] = None,
    bundle_endpoint_profile: Annotated[
        BundleEndpointProfile | None,
        typer.Option("--federation-bundle-endpoint-profile", help="[default: https_spiffe]"),
    ] = None,
    bundle_endpoint_tls_cert: Annotated[
        Path | None,
        typer.Option("--federation-bundle-endpoint-tls-cert", help="For https_web: the certificate, PEM."),
    ] = None,
    bundle_endpoint_tls_key: Annotated[
        Path | None,
        typer.Option("--federation-bundle-endpoint-tls-key", help="For https_web: its private key, PEM."),
    ] = None,
    bundle_endpoint_refresh_hint: Annotated[
        str | None,
        typer.Option(
            "--federation-bundle-endpoint-refresh-hint", help="How often it should be asked. [default: 5m]"
        ),
    ] = None,
    federation_web_ca: Annotated[
        Path | None,
        typer.Option(
            "--federation-web-ca", help="Authorities of https_web endpoints, PEM. [default: the system's]"
        ),
    ] = None,
    federation_permit_local: Annotated[
        bool,
        typer.Option("--federation-permit-local", help="Endpoints may be on this machine: for trying out."),
    ] = False,
    federation_shortest_refresh: Annotated[
        str | None,
        typer.Option(
            "--federation-shortest-refresh", help="Between two fetches of one bundle. [default: 1m]"
        ),
    ] = None,
    agent_ttl: Annotated[
        str | None, typer.Option("--agent-ttl", help="Of agents' own SVIDs. [default: the workloads']")
    ] = None,
    return_grace: Annotated[
        str | None,
        typer.Option(
            "--return-grace",
            help="How long after its SVID expired an agent may come back with its last key; 0s: never. [default: 7d]",
        ),
    ] = None,
    prune_agents_expired_for: Annotated[
        str | None,
        typer.Option(
            "--prune-agents-expired-for",
            help="Forget agents this long after their last SVID was over; banned ones stay. [default: never]",
        ),
    ] = None,
    prune_tofu_agents: Annotated[
        bool, typer.Option("--prune-tofu-agents", help="Also those that cannot attest again.")
    ] = False,
    key_storage: Annotated[
        KeyStorage | None,
        typer.Option(
            "--keys",
            "--key-storage",
            help="Where the authorities' keys live; pkcs11: in a token. [default: disk]",
        ),
    ] = None,
    pkcs11_module: Annotated[
        Path | None, typer.Option("--pkcs11-module", help="The token vendor's shared library.")
    ] = None,
    pkcs11_token: Annotated[
        str | None, typer.Option("--pkcs11-token", metavar="LABEL", help="The token's label.")
    ] = None,
    pkcs11_pin_file: Annotated[
        Path | None, typer.Option("--pkcs11-pin-file", help="A file, mode 600, with the token's PIN.")
    ] = None,
    pkcs11_pin_fd: Annotated[
        int | None, typer.Option("--pkcs11-pin-fd", help="Or an inherited descriptor to read it from.")
    ] = None,
    node_attestor: Annotated[
        list[str] | None,
        typer.Option(
            "--node-attestor",
            metavar="NAME[=KEY=VALUE,...]",
            help="How nodes may attest, repeatable: join_token, x509pop, http_challenge, k8s_psat, gcp_iit, aws_iid. "
            "[default: join_token]",
        ),
    ] = None,
    upstream: Annotated[
        Upstream | None,
        typer.Option("--upstream", help="Who signs this server's authorities. [default: itself]"),
    ] = None,
    upstream_server_address: Annotated[
        str | None,
        typer.Option(
            "--upstream-server-address", metavar="HOST:PORT", help="spire: the gRPC port of the server above."
        ),
    ] = None,
    upstream_workload_api: Annotated[
        Path | None,
        typer.Option(
            "--upstream-workload-api",
            metavar="SOCKET",
            help="spire: the agent's socket, for this server's identity.",
        ),
    ] = None,
    kek_file: Annotated[
        Path | None, typer.Option("--kek-file", help="The key that seals the keys. [default: DATA_DIR/kek]")
    ] = None,
    upstream_cert: Annotated[
        Path | None, typer.Option("--upstream-cert", help="Of upstream disk: its chain, PEM.")
    ] = None,
    upstream_key: Annotated[
        Path | None, typer.Option("--upstream-key", help="Of upstream disk: its key, PEM, mode 600.")
    ] = None,
    upstream_roots: Annotated[
        Path | None, typer.Option("--upstream-roots", help="The roots that are trusted, PEM.")
    ] = None,
    upstream_environment: Annotated[
        str | None,
        typer.Option(
            "--upstream-environment", help="Begins the names of intermediates: prod-2026-Q4. [default: prod]"
        ),
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="Of the log lines.")] = LogFormat.TEXT,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run the server until it is told to stop: the first SIGTERM or SIGINT drains it, the second stops it."""
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    set_up_logs(log_level, log_format)
    keep_memory_private()

    def settings() -> ServerSettings:
        given = {
            "trust_domain": trust_domain,
            "data_dir": data_dir,
            "socket_path": socket,
            "intent": intent,
            "intent_git": intent_git,
            "intent_git_ref": intent_git_ref,
            "intent_git_directory": intent_git_directory,
            "intent_git_poll": intent_git_poll,
            "intent_git_webhook_secret": intent_git_webhook_secret,
            "intent_git_allowed_signers": intent_git_allowed_signers,
            "intent_git_allowed_keys": intent_git_allowed_keys,
            "intent_git_force_push": intent_git_force_push,
            "intent_git_credentials": intent_git_credentials,
            "intent_git_ssh_key": intent_git_ssh_key,
            "intent_git_known_hosts": intent_git_known_hosts,
            "intent_git_ca": intent_git_ca,
            "intent_git_max_size": intent_git_max_size,
            "database": database,
            "ca_ttl": ca_ttl,
            "default_x509_svid_ttl": default_x509_svid_ttl,
            "default_jwt_svid_ttl": default_jwt_svid_ttl,
            "jwt_issuer": jwt_issuer,
            "disable_jwt_svids": disable_jwt_svids or None,
            "allowed_jwt_claims": allowed_jwt_claim or None,
            "template_identities": template_identities,
            "ratelimit_attestation": ratelimit_attestation,
            "ratelimit_signing": ratelimit_signing,
            "admin_ids": admin_id or None,
            "experimental_wit_svids": experimental_wit_svids or None,
            "agent_ttl": agent_ttl,
            "return_grace": return_grace,
            "prune_agents_expired_for": prune_agents_expired_for,
            "prune_tofu_agents": prune_tofu_agents or None,
            "federation_bundle_endpoint_profile": bundle_endpoint_profile,
            "federation_bundle_endpoint_tls_cert": bundle_endpoint_tls_cert,
            "federation_bundle_endpoint_tls_key": bundle_endpoint_tls_key,
            "federation_bundle_endpoint_refresh_hint": bundle_endpoint_refresh_hint,
            "federation_web_ca": federation_web_ca,
            "federation_permit_local": federation_permit_local or None,
            "federation_shortest_refresh": federation_shortest_refresh,
            **_address(
                "federation_bundle_endpoint_address", "federation_bundle_endpoint_port", bundle_endpoint
            ),
            "key_storage": key_storage,
            "kek_file": kek_file,
            "upstream": upstream,
            "upstream_server_address": upstream_server_address,
            "upstream_workload_api": upstream_workload_api,
            "upstream_cert": upstream_cert,
            "upstream_key": upstream_key,
            "upstream_roots": upstream_roots,
            "upstream_environment": upstream_environment,
            "pkcs11_module": pkcs11_module,
            "pkcs11_token": pkcs11_token,
            "pkcs11_pin_file": pkcs11_pin_file,
            "pkcs11_pin_fd": pkcs11_pin_fd,
            "node_attestors": node_attestor or None,
            **_address("bind_address", "bind_port", bind),
            "oidc_tls_cert": oidc_tls_cert,
            "oidc_tls_key": oidc_tls_key,
            **_address("health_address", "health_port", health),
            **_address("oidc_address", "oidc_port", oidc),
        }
        defaults = {
            "data_dir": Path("/var/lib/vestibule/server"),
            "socket_path": runtime_directory() / SERVER_SOCKET,
        }
        return server_settings(given, config, defaults)

    import uvloop

    async def main() -> Exit:
        chosen = settings()  # a mistake is told before all of the server is loaded

        from vestibule.app.server import Ready, run_server

        def tell(ready: Ready) -> None:
            answer(output, "server-ready", ready.document, lambda: typer.echo(str(ready)))

        await run_server(chosen, on_ready=tell)
        return Exit.FINE

    run_command(output, "server-ready", main, loop=uvloop.new_event_loop)


def _address(host: str, port: str, text: str | None) -> dict[str, str | None]:
    if text is None:
        return {}
    if text == "off":
        return {port: text}
    address, colon, number = text.rpartition(":")
    if not colon:
        raise INVALID_SETTING.error(f"{text!r} is not HOST:PORT")
    return {host: address.removeprefix("[").removesuffix("]") or None, port: number}
