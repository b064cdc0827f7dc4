"""The options of ``vestibule server run`` that are settings, by what they are about.

Each field is named for the setting that it gives.  Those of ``_ADDRESSES`` give two, the address and its port.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.git_settings import ForcePush
from vestibule.app.server_settings import KeyStorage, SealKind, Upstream

_ADDRESSES: Final = {
    "bind": "bind",
    "health": "health",
    "oidc": "oidc",
    "federation_bundle_endpoint": "federation_bundle_endpoint",
    "secrets": "secrets",
    "tokens_bind": "tokens",
}
"""Options, and what the names of the settings begin with."""


class BundleEndpointProfile(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How the bundle endpoint proves who it is."""

    HTTPS_SPIFFE = "https_spiffe"
    HTTPS_WEB = "https_web"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacesOptions:
    """Where the server is, and what it is asked at."""

    trust_domain: Annotated[str | None, typer.Option("--trust-domain", help="Such as example.org.")] = None
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="State, keys and audit log.")] = None
    socket_path: Annotated[Path | None, typer.Option("--socket", help="The operator's private socket.")] = (
        None
    )
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="HOST:PORT", help="The gRPC port. [default: 0.0.0.0:8081]")
    ] = None
    health: Annotated[
        str | None,
        typer.Option(
            "--health", metavar="HOST:PORT|off", help="/live /ready /metrics. [default: 127.0.0.1:8082]"
        ),
    ] = None
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="file:PATH|env:NAME",
            help="Where the PostgreSQL connection string of several servers is. [default: SQLite in DATA_DIR]",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentOptions:
    """Where the mesh's intent comes from."""

    intent: Annotated[
        Path | None,
        typer.Option("--intent", help="The directory of the mesh's intent; none: identities only."),
    ] = None
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="Which mesh, where the intent holds several."),
    ] = None
    intent_git: Annotated[
        str | None,
        typer.Option("--intent-git", metavar="URL|PATH", help="Or the Git repository that holds it."),
    ] = None
    intent_git_ref: Annotated[
        str | None, typer.Option("--intent-git-ref", help="Its branch, tag or commit. [default: main]")
    ] = None
    intent_git_directory: Annotated[
        str | None, typer.Option("--intent-git-directory", help="Its folder that holds mesh.yaml.")
    ] = None
    intent_git_poll: Annotated[
        str | None, typer.Option("--intent-git-poll", help="How often it is asked. [default: 10s]")
    ] = None
    intent_git_webhook_secret: Annotated[
        Path | None,
        typer.Option("--intent-git-webhook-secret", help="A file, mode 600: serves POST /webhook/git."),
    ] = None
    intent_git_allowed_signers: Annotated[
        Path | None,
        typer.Option(
            "--intent-git-allowed-signers", help="SSH keys, one of which must have signed a commit."
        ),
    ] = None
    intent_git_allowed_keys: Annotated[
        Path | None,
        typer.Option("--intent-git-allowed-keys", help="OpenPGP keys, one of which must have signed it."),
    ] = None
    intent_git_force_push: Annotated[
        ForcePush | None,
        typer.Option(
            "--intent-git-force-push", help="Whether rewritten history is followed. [default: refuse]"
        ),
    ] = None
    intent_git_credentials: Annotated[
        Path | None,
        typer.Option("--intent-git-credentials", help="For https: a file, mode 600, with USER:TOKEN."),
    ] = None
    intent_git_ssh_key: Annotated[
        Path | None, typer.Option("--intent-git-ssh-key", help="For SSH: the private key.")
    ] = None
    intent_git_known_hosts: Annotated[
        Path | None, typer.Option("--intent-git-known-hosts", help="For SSH: the host's keys.")
    ] = None
    intent_git_ca: Annotated[
        Path | None,
        typer.Option("--intent-git-ca", help="For https: authorities, PEM. [default: the system's]"),
    ] = None
    intent_git_max_size: Annotated[
        str | None, typer.Option("--intent-git-max-size", help="The most that is fetched. [default: 1GiB]")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingOptions:
    """What is issued, for how long, and how often."""

    ca_ttl: Annotated[str | None, typer.Option("--ca-ttl", help="Such as 24h.")] = None
    default_x509_svid_ttl: Annotated[
        str | None, typer.Option("--default-x509-svid-ttl", help="Such as 1h.")
    ] = None
    default_jwt_svid_ttl: Annotated[
        str | None, typer.Option("--default-jwt-svid-ttl", help="Such as 5m.")
    ] = None
    jwt_issuer: Annotated[
        str | None,
        typer.Option("--jwt-issuer", metavar="URL", help="Goes into JWT-SVIDs as iss. [default: none]"),
    ] = None
    oidc: Annotated[
        str | None,
        typer.Option("--oidc", metavar="HOST:PORT|off", help="OpenID Connect discovery. [default: off]"),
    ] = None
    oidc_tls_cert: Annotated[
        Path | None, typer.Option("--oidc-tls-cert", help="Its certificate, PEM; none: on loopback only.")
    ] = None
    oidc_tls_key: Annotated[Path | None, typer.Option("--oidc-tls-key", help="Its private key, PEM.")] = None
    disable_jwt_svids: Annotated[bool, typer.Option("--disable-jwt-svids", help="Issue X509-SVIDs only.")] = (
        False
    )
    allowed_jwt_claims: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-jwt-claim",
            help="A name, or a pattern such as org_*, that entries' claims may have. Repeatable. [default: *]",
        ),
    ] = None
    audit_sinks: Annotated[
        list[str] | None,
        typer.Option(
            "--audit-sink",
            metavar="URL",
            help="Where audit records are carried to, too: syslog:/dev/log, syslog+tcp://HOST:PORT, https://HOST/PATH, "
            "otlp+https://HOST. Repeatable.",
        ),
    ] = None
    audit_sink_token_file: Annotated[
        Path | None,
        typer.Option(
            "--audit-sink-token-file", help="For http and otlp: the bearer token, mode 600; read each time."
        ),
    ] = None
    audit_sink_ca: Annotated[
        Path | None,
        typer.Option(
            "--audit-sink-ca",
            help="For https: the authorities of their certificates, PEM. [default: the system's]",
        ),
    ] = None
    template_identities: Annotated[
        int | None,
        typer.Option(
            "--template-identities",
            help="How many identities a template gives that does not say. [default: 100]",
        ),
    ] = None
    ratelimit_attestation: Annotated[
        int | None,
        typer.Option(
            "--ratelimit-attestation",
            help="Attempts of nodes to join, per second and address; 0: no limit. [default: 20]",
        ),
    ] = None
    ratelimit_signing: Annotated[
        int | None,
        typer.Option(
            "--ratelimit-signing", help="Signatures per second and agent; 0: no limit. [default: 500]"
        ),
    ] = None
    admin_ids: Annotated[
        list[str] | None,
        typer.Option("--admin-id", help="An identity that is a full administrator. Repeatable."),
    ] = None
    experimental_wit_svids: Annotated[
        bool,
        typer.Option(
            "--experimental-wit-svids",
            help="Issue WIT-SVIDs, too: tokens bound to a key. The standard is not finished.",
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatingOptions:
    """What other trust domains are told and asked."""

    federation_bundle_endpoint: Annotated[
        str | None,
        typer.Option(
            "--federation-bundle-endpoint",
            metavar="HOST:PORT|off",
            help="Our trust bundle, for other trust domains. [default: off]",
        ),
    ] = None
    federation_bundle_endpoint_profile: Annotated[
        BundleEndpointProfile | None,
        typer.Option("--federation-bundle-endpoint-profile", help="[default: https_spiffe]"),
    ] = None
    federation_bundle_endpoint_tls_cert: Annotated[
        Path | None,
        typer.Option("--federation-bundle-endpoint-tls-cert", help="For https_web: the certificate, PEM."),
    ] = None
    federation_bundle_endpoint_tls_key: Annotated[
        Path | None,
        typer.Option("--federation-bundle-endpoint-tls-key", help="For https_web: its private key, PEM."),
    ] = None
    federation_bundle_endpoint_refresh_hint: Annotated[
        str | None,
        typer.Option(
            "--federation-bundle-endpoint-refresh-hint", help="How often it should be asked. [default: 5m]"
        ),
    ] = None
    federation_web_ca: Annotated[
        Path | None,
        typer.Option(
            "--federation-web-ca", help="Authorities of https_web endpoints, PEM. [default: the system's]"
        ),
    ] = None
    federation_permit_local: Annotated[
        bool,
        typer.Option("--federation-permit-local", help="Endpoints may be on this machine: for trying out."),
    ] = False
    federation_shortest_refresh: Annotated[
        str | None,
        typer.Option(
            "--federation-shortest-refresh", help="Between two fetches of one bundle. [default: 1m]"
        ),
    ] = None
    issuers_web_ca: Annotated[
        Path | None,
        typer.Option(
            "--issuers-web-ca", help="Authorities of issuers' key URLs, PEM. [default: the system's]"
        ),
    ] = None
    issuers_permit_local: Annotated[
        bool,
        typer.Option("--issuers-permit-local", help="Issuers may be on this machine: for trying out."),
    ] = False
    issuers_keys_kept: Annotated[
        str | None,
        typer.Option("--issuers-keys-kept", help="How long an issuer's last keys count. [default: 24h]"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsOptions:
    """How nodes come in, and when they are forgotten."""

    agent_ttl: Annotated[
        str | None, typer.Option("--agent-ttl", help="Of agents' own SVIDs. [default: the workloads']")
    ] = None
    return_grace: Annotated[
        str | None,
        typer.Option(
            "--return-grace",
            help="How long after its SVID expired an agent may come back with its last key; 0s: never. [default: 7d]",
        ),
    ] = None
    prune_agents_expired_for: Annotated[
        str | None,
        typer.Option(
            "--prune-agents-expired-for",
            help="Forget agents this long after their last SVID was over; banned ones stay. [default: never]",
        ),
    ] = None
    prune_tofu_agents: Annotated[
        bool, typer.Option("--prune-tofu-agents", help="Also those that cannot attest again.")
    ] = False
    node_attestors: Annotated[
        list[str] | None,
        typer.Option(
            "--node-attestor",
            metavar="NAME[=KEY=VALUE,...]",
            help="How nodes may attest, repeatable: join_token, x509pop, http_challenge, k8s_psat, gcp_iit, aws_iid. "
            "[default: join_token]",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysOptions:
    """Where the keys of the authorities are."""

    key_storage: Annotated[
        KeyStorage | None,
        typer.Option(
            "--keys",
            "--key-storage",
            help="Where the authorities' keys live; pkcs11: in a token. [default: disk]",
        ),
    ] = None
    kek_file: Annotated[
        Path | None, typer.Option("--kek-file", help="The key that seals the keys. [default: DATA_DIR/kek]")
    ] = None
    pkcs11_module: Annotated[
        Path | None, typer.Option("--pkcs11-module", help="The token vendor's shared library.")
    ] = None
    pkcs11_token: Annotated[
        str | None, typer.Option("--pkcs11-token", metavar="LABEL", help="The token's label.")
    ] = None
    pkcs11_pin_file: Annotated[
        Path | None, typer.Option("--pkcs11-pin-file", help="A file, mode 600, with the token's PIN.")
    ] = None
    pkcs11_pin_fd: Annotated[
        int | None, typer.Option("--pkcs11-pin-fd", help="Or an inherited descriptor to read it from.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsOptions:
    """The secret manager."""

    secrets_seal: Annotated[
        SealKind | None,
        typer.Option(
            "--secrets-seal", help="What seals what is kept; off: no secret manager. [default: off]"
        ),
    ] = None
    secrets_seal_file: Annotated[
        Path | None,
        typer.Option("--secrets-seal-file", help="Of the seal file. [default: DATA_DIR/secrets.kek]"),
    ] = None
    secrets_peers: Annotated[
        list[str] | None,
        typer.Option(
            "--secrets-peer",
            metavar="HOST:PORT",
            help="Another server on the database, for the seal peers. Repeatable.",
        ),
    ] = None
    secrets: Annotated[
        str | None,
        typer.Option(
            "--secrets",
            metavar="HOST:PORT",
            help="Vault's API, for whoever has an SVID. [default: 127.0.0.1:8200]",
        ),
    ] = None
    secrets_advertised: Annotated[
        str | None,
        typer.Option(
            "--secrets-advertised", metavar="IP", help="Where proxies reach it. [default: the address]"
        ),
    ] = None
    secrets_token_port: Annotated[
        str | None,
        typer.Option(
            "--secrets-token-port",
            metavar="PORT|off",
            help="Another port there, for clients with a token and no SVID. [default: off]",
        ),
    ] = None
    secrets_token_tls_cert: Annotated[
        Path | None,
        typer.Option("--secrets-token-tls-cert", help="What is shown there, PEM. [default: the SVID]"),
    ] = None
    secrets_token_tls_key: Annotated[
        Path | None, typer.Option("--secrets-token-tls-key", help="Its private key, PEM.")
    ] = None
    secrets_dns_names: Annotated[
        list[str] | None,
        typer.Option(
            "--secrets-dns-name", help="A name in its certificate, for clients without a sidecar. Repeatable."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensOptions:
    """The token service."""

    tokens: Annotated[
        bool, typer.Option("--tokens", help="Issue tokens (OAuth); needs a --secrets-seal.")
    ] = False
    tokens_issuer: Annotated[
        str | None,
        typer.Option(
            "--tokens-issuer", metavar="URL", help="The claim iss. [default: https://tokens.TRUST_DOMAIN]"
        ),
    ] = None
    tokens_bind: Annotated[
        str | None,
        typer.Option(
            "--tokens-bind",
            metavar="HOST:PORT",
            help="OAuth's endpoints, for whoever has an SVID. [default: 127.0.0.1:8300]",
        ),
    ] = None
    tokens_advertised: Annotated[
        str | None,
        typer.Option(
            "--tokens-advertised", metavar="IP", help="Where proxies reach them. [default: the address]"
        ),
    ] = None
    tokens_open_port: Annotated[
        str | None,
        typer.Option(
            "--tokens-open-port",
            metavar="PORT|off",
            help="Another port there, without client certificates. [default: off]",
        ),
    ] = None
    tokens_open_tls_cert: Annotated[
        Path | None,
        typer.Option("--tokens-open-tls-cert", help="What is shown there, PEM. [default: the SVID]"),
    ] = None
    tokens_open_tls_key: Annotated[
        Path | None, typer.Option("--tokens-open-tls-key", help="Its private key, PEM.")
    ] = None
    tokens_dns_names: Annotated[
        list[str] | None,
        typer.Option(
            "--tokens-dns-name", help="A name in its certificate, for clients without a sidecar. Repeatable."
        ),
    ] = None
    tokens_key_life: Annotated[
        str | None,
        typer.Option(
            "--tokens-key-life", metavar="DURATION", help="How long one key signs tokens. [default: 24h]"
        ),
    ] = None
    tokens_key_publication: Annotated[
        str | None,
        typer.Option(
            "--tokens-key-publication",
            metavar="DURATION",
            help="How long a key is shown before it signs. [default: 15m]",
        ),
    ] = None
    experimental_transaction_tokens: Annotated[
        bool,
        typer.Option("--experimental-transaction-tokens", help="Issue transaction tokens, too (a draft)."),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveOptions:
    """Who signs the authorities."""

    upstream: Annotated[
        Upstream | None,
        typer.Option("--upstream", help="Who signs this server's authorities. [default: itself]"),
    ] = None
    upstream_server_address: Annotated[
        str | None,
        typer.Option(
            "--upstream-server-address", metavar="HOST:PORT", help="spire: the gRPC port of the server above."
        ),
    ] = None
    upstream_workload_api: Annotated[
        Path | None,
        typer.Option(
            "--upstream-workload-api",
            metavar="SOCKET",
            help="spire: the agent's socket, for this server's identity.",
        ),
    ] = None
    upstream_cert: Annotated[
        Path | None, typer.Option("--upstream-cert", help="Of upstream disk: its chain, PEM.")
    ] = None
    upstream_key: Annotated[
        Path | None, typer.Option("--upstream-key", help="Of upstream disk: its key, PEM, mode 600.")
    ] = None
    upstream_roots: Annotated[
        Path | None, typer.Option("--upstream-roots", help="The roots that are trusted, PEM.")
    ] = None
    upstream_environment: Annotated[
        str | None,
        typer.Option(
            "--upstream-environment", help="Begins the names of intermediates: prod-2026-Q4. [default: prod]"
        ),
    ] = None


def given(*groups: object) -> dict[str, Any]:
    """The settings that the options of these groups say; ``None`` is one that was not given.

    Raises: VST9110 (an address).
    """
    told: dict[str, Any] = {}
    for group in groups:
        for option in fields(group):  # type: ignore[arg-type]
            value = getattr(group, option.name)
            if option.name in _ADDRESSES:
                told |= _address(_ADDRESSES[option.name], value)
            else:
                told[option.name] = None if value is False or value == [] else value
    return told


def _address(name: str, text: str | None) -> dict[str, str | None]:
    if text is None:
        return {}
    if text == "off":
        return {f"{name}_port": text}
    address, colon, number = text.rpartition(":")
    if not colon:
        raise INVALID_SETTING.error(f"{text!r} is not HOST:PORT")
    return {f"{name}_address": address.removeprefix("[").removesuffix("]") or None, f"{name}_port": number}
