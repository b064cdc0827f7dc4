"""What each setting means, in a sentence for editors and for the page in docs, and its option on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Meaning:
    """A sentence, and the option that wins over the file (empty: only the file has this setting)."""

    text: str
    option: str = ""


SERVER: Final = {
    "trust_domain": Meaning(
        "The trust domain that the server is the authority of, such as example.org.", "--trust-domain"
    ),
    "data_dir": Meaning(
        "Where state, sealed keys and the audit log are kept; one server's alone.", "--data-dir"
    ),
    "socket_path": Meaning("The operator's private socket.", "--socket"),
    "bind_address": Meaning("Where agents reach the server: the address.", "--bind"),
    "bind_port": Meaning("Where agents reach the server: the port; 0 lets the kernel choose.", "--bind"),
    "health_address": Meaning("Where /live, /ready and /metrics are served: the address.", "--health"),
    "health_port": Meaning("Where /live, /ready and /metrics are served: the port.", "--health"),
    "ca_ttl": Meaning(
        "For how long a signing authority is valid; it is replaced after 5/6 of that.", "--ca-ttl"
    ),
    "default_x509_svid_ttl": Meaning(
        "For how long certificates of workloads are valid, unless their entry says otherwise.",
        "--default-x509-svid-ttl",
    ),
    "default_jwt_svid_ttl": Meaning(
        "For how long JWT-SVIDs are valid, unless their entry says otherwise.", "--default-jwt-svid-ttl"
    ),
    "disable_jwt_svids": Meaning("Issue certificates only.", "--disable-jwt-svids"),
    "experimental_wit_svids": Meaning(
        "Issue WIT-SVIDs, too: tokens bound to a key. The standard is not finished.",
        "--experimental-wit-svids",
    ),
    "jwt_issuer": Meaning("The https address that goes into JWT-SVIDs as iss.", "--jwt-issuer"),
    "oidc_address": Meaning("Where the pages of OpenID Connect discovery are served: the address.", "--oidc"),
    "oidc_port": Meaning("Where the pages of OpenID Connect discovery are served: the port.", "--oidc"),
    "oidc_tls_cert": Meaning(
        "The certificate of the discovery pages, PEM; without it on loopback only.", "--oidc-tls-cert"
    ),
    "oidc_tls_key": Meaning("The private key of the discovery pages, PEM.", "--oidc-tls-key"),
    "secrets_seal": Meaning(
        "What seals what the secret manager keeps: off (there is none), file (a key in a file), shamir (shares), "
        "pkcs11 (a key in the token) or peers (servers on one database unseal each other; shares for when none "
        "is unsealed).",
        "--secrets-seal",
    ),
    "secrets_seal_file": Meaning(
        "The file of the seal file, mode 600; DATA_DIR/secrets.kek unless it is said here.",
        "--secrets-seal-file",
    ),
    "secrets_peers": Meaning(
        "The other servers, by host and port of their gRPC APIs, that a sealed one asks, with the seal peers.",
        "--secrets-peer",
    ),
    "secrets_address": Meaning("Where the secret manager serves Vault's API: the address.", "--secrets"),
    "secrets_port": Meaning("Where the secret manager serves Vault's API: the port.", "--secrets"),
    "secrets_advertised": Meaning(
        "The IP address at which proxies reach the secret manager, where it listens at every address.",
        "--secrets-advertised",
    ),
    "secrets_token_port": Meaning(
        "A second port, at which no certificate is asked for: for clients that have a JWT-SVID and no X.509-SVID; "
        "off unless it is said here.",
        "--secrets-token-port",
    ),
    "secrets_token_tls_cert": Meaning(
        "The certificate chain that is shown at secrets_token_port, PEM; otherwise the secret manager's SVID.",
        "--secrets-token-tls-cert",
    ),
    "secrets_token_tls_key": Meaning(
        "The private key of secrets_token_tls_cert, PEM.", "--secrets-token-tls-key"
    ),
    "secrets_dns_names": Meaning(
        "DNS names in the secret manager's certificate, for clients that come without a sidecar.",
        "--secrets-dns-name",
    ),
    "tokens": Meaning("Issue tokens, as an OAuth authorization server; needs secrets_seal.", "--tokens"),
    "tokens_issuer": Meaning(
        "The claim iss of tokens, and what assertions of clients are made for: https://HOST[:PORT]; "
        "https://tokens.TRUST_DOMAIN unless it is said here.",
        "--tokens-issuer",
    ),
    "tokens_address": Meaning(
        "Where the token service serves OAuth's endpoints: the address.", "--tokens-bind"
    ),
    "tokens_port": Meaning("Where the token service serves OAuth's endpoints: the port.", "--tokens-bind"),
    "tokens_advertised": Meaning(
        "The IP address at which proxies reach the token service, where it listens at every address.",
        "--tokens-advertised",
    ),
    "tokens_open_port": Meaning(
        "A second port, at which no certificate is asked for: for keys and metadata, and for clients that prove by a "
        "JWT-SVID who they are; off unless it is said here.",
        "--tokens-open-port",
    ),
    "tokens_open_tls_cert": Meaning(
        "The certificate chain that is shown at tokens_open_port, PEM; otherwise the token service's SVID.",
        "--tokens-open-tls-cert",
    ),
    "tokens_open_tls_key": Meaning("The private key of tokens_open_tls_cert, PEM.", "--tokens-open-tls-key"),
    "tokens_dns_names": Meaning(
        "DNS names in the token service's certificate besides the issuer's, for clients that come without a sidecar.",
        "--tokens-dns-name",
    ),
    "tokens_key_life": Meaning(
        "For how long one key signs tokens before the next one does.", "--tokens-key-life"
    ),
    "tokens_key_publication": Meaning(
        "For how long a key is shown to verifiers before it signs: at least as long as any of them keeps a key set "
        "without looking for new ones; sidecars know of it within a second.",
        "--tokens-key-publication",
    ),
    "experimental_transaction_tokens": Meaning(
        "Issue transaction tokens, too.  The standard is not finished.", "--experimental-transaction-tokens"
    ),
    "agent_ttl": Meaning(
        "For how long agents' own certificates are valid; otherwise as workloads'.", "--agent-ttl"
    ),
    "return_grace": Meaning(
        "For how long after its certificate ended an agent may come back by proof of its last key; 0s: not at all.",
        "--return-grace",
    ),
    "prune_agents_expired_for": Meaning(
        "How long after their last certificate ended agents are forgotten; banned ones stay, and by default all do.",
        "--prune-agents-expired-for",
    ),
    "prune_tofu_agents": Meaning(
        "Forget also agents that cannot attest again by themselves.", "--prune-tofu-agents"
    ),
    "key_storage": Meaning("Where the private keys of the authorities live.", "--key-storage"),
    "kek_file": Meaning("The key that seals the keys on disk; otherwise DATA_DIR/kek.", "--kek-file"),
    "upstream": Meaning("Who signs the authorities, where the server does not do so itself.", "--upstream"),
    "upstream_cert": Meaning(
        "disk: the intermediate, followed by what is above it but the root; PEM.", "--upstream-cert"
    ),
    "upstream_key": Meaning("disk: the intermediate's private key, PEM, mode 0600.", "--upstream-key"),
    "upstream_roots": Meaning("The roots that the bundle holds, PEM.", "--upstream-roots"),
    "upstream_environment": Meaning(
        "ceremony: the environment that the intermediates are named for.", "--upstream-environment"
    ),
    "upstream_server_address": Meaning(
        "The gRPC port of the server above, HOST:PORT.", "--upstream-server-address"
    ),
    "upstream_workload_api": Meaning(
        "The socket of the agent of the server above, on this machine.", "--upstream-workload-api"
    ),
    "pkcs11_module": Meaning("The library of the hardware token.", "--pkcs11-module"),
    "pkcs11_token": Meaning("The token's label.", "--pkcs11-token"),
    "pkcs11_pin_file": Meaning("A file of mode 0600 with the token's PIN.", "--pkcs11-pin-file"),
    "pkcs11_pin_fd": Meaning("An inherited descriptor from which the PIN is read.", "--pkcs11-pin-fd"),
    "database": Meaning(
        "file:PATH or env:NAME, where the PostgreSQL connection string of several servers can be read; otherwise "
        "SQLite in the data directory.",
        "--database",
    ),
    "audit_file_size": Meaning("How large a file of the audit log grows before a new one is begun."),
    "audit_files": Meaning("How many files of the audit log are kept; 0 keeps all."),
    "intent": Meaning(
        "Where the mesh's intent is: a directory, or a Git repository; neither: identities only.", "--intent"
    ),
    "environment": Meaning(
        "Which of its environments, where the intent holds several in environments/.", "--environment"
    ),
    "intent.git": Meaning("The intent in a Git repository."),
    "intent.git.repository": Meaning(
        "Its address: https://…, ssh://…, USER@HOST:PATH, or a path on this machine.", "--intent-git"
    ),
    "intent.git.ref": Meaning("The branch or tag that is followed, or one commit.", "--intent-git-ref"),
    "intent.git.directory": Meaning(
        "The folder of the repository that holds mesh.yaml.", "--intent-git-directory"
    ),
    "intent.git.poll": Meaning(
        "How often the repository is asked; one on this machine is watched besides.", "--intent-git-poll"
    ),
    "intent.git.webhook_secret": Meaning(
        "A file, mode 600, with the secret of webhooks; with it, POST /webhook/git is served beside /live.",
        "--intent-git-webhook-secret",
    ),
    "intent.git.allowed_signers": Meaning(
        "Only commits signed by an SSH key of this file are taken up (ssh-keygen(1), ALLOWED SIGNERS).",
        "--intent-git-allowed-signers",
    ),
    "intent.git.allowed_keys": Meaning(
        "Only commits signed by an OpenPGP key of this file are taken up; beside allowed_signers, by a key of either.",
        "--intent-git-allowed-keys",
    ),
    "intent.git.force_push": Meaning(
        "Whether a branch that no longer contains the commit in force is followed: refuse or follow.",
        "--intent-git-force-push",
    ),
    "intent.git.credentials": Meaning(
        "For https: a file, mode 600, with USER:TOKEN, or a token alone.", "--intent-git-credentials"
    ),
    "intent.git.ssh_key": Meaning("For SSH: the private key, mode 600.", "--intent-git-ssh-key"),
    "intent.git.known_hosts": Meaning("For SSH: the host's keys.", "--intent-git-known-hosts"),
    "intent.git.ca": Meaning(
        "For https: the authorities of the host's certificate, PEM; otherwise the system's.",
        "--intent-git-ca",
    ),
    "intent.git.max_size": Meaning("The most that is fetched and kept.", "--intent-git-max-size"),
    "node_attestors": Meaning("How nodes may attest: names, each with its settings.", "--node-attestor"),
    "audit_sinks": Meaning(
        "Where audit records are carried to, too, each at least once and in their order: `syslog:/dev/log`, "
        "`syslog+tcp://HOST:PORT`, `https://HOST/PATH`, `otlp+https://HOST`.",
        "--audit-sink",
    ),
    "audit_sink_token_file": Meaning(
        "For http and otlp: the bearer token, mode 600; it is read for each batch."
    ),
    "audit_sink_ca": Meaning("For https: the authorities of the certificates, PEM; otherwise the system's."),
    "allowed_jwt_claims": Meaning("Which custom claims entries may put into JWT-SVIDs; `*` allows all."),
    "template_identities": Meaning("How many identities an entry with a template may give."),
    "ratelimit_attestation": Meaning(
        "How often per second nodes of one address may try to join; 0 turns the limit off.",
        "--ratelimit-attestation",
    ),
    "ratelimit_signing": Meaning(
        "How many certificates and tokens one agent may have signed per second; 0 turns the limit off.",
        "--ratelimit-signing",
    ),
    "admin_ids": Meaning("SPIFFE IDs whose holders administer the server without an entry that says so."),
    "federation_bundle_endpoint_address": Meaning(
        "Where other trust domains fetch the bundle: the address.", "--federation-bundle-endpoint"
    ),
    "federation_bundle_endpoint_port": Meaning(
        "Where other trust domains fetch the bundle: the port.", "--federation-bundle-endpoint"
    ),
    "federation_bundle_endpoint_profile": Meaning(
        "How the bundle endpoint proves who it is.", "--federation-bundle-endpoint-profile"
    ),
    "federation_bundle_endpoint_tls_cert": Meaning(
        "Its web certificate, PEM, in the profile https_web.", "--federation-bundle-endpoint-tls-cert"
    ),
    "federation_bundle_endpoint_tls_key": Meaning(
        "The private key of that certificate, PEM.", "--federation-bundle-endpoint-tls-key"
    ),
    "federation_bundle_endpoint_refresh_hint": Meaning(
        "How often others are asked to fetch the bundle again.", "--federation-bundle-endpoint-refresh-hint"
    ),
    "federation_web_ca": Meaning(
        "The authorities of web endpoints of others, PEM; otherwise the system's.", "--federation-web-ca"
    ),
    "federation_permit_local": Meaning(
        "Let bundles be fetched from this machine and from link-local addresses.", "--federation-permit-local"
    ),
    "federation_shortest_refresh": Meaning(
        "The least time between two fetches of one bundle.", "--federation-shortest-refresh"
    ),
    "issuers_web_ca": Meaning(
        "The authorities of the URLs at which outside issuers of tokens publish their keys, PEM; otherwise the "
        "system's.",
        "--issuers-web-ca",
    ),
    "issuers_permit_local": Meaning(
        "Let keys of outside issuers be fetched from this machine, also in plain text, and from link-local addresses.",
        "--issuers-permit-local",
    ),
    "issuers_keys_kept": Meaning(
        "How long the last good keys of an outside issuer count that cannot be asked.", "--issuers-keys-kept"
    ),
    "drain": Meaning("How long calls in progress may take when the server is told to stop."),
}

AGENT: Final = {
    "trust_domain": Meaning("The trust domain of the node, such as example.org.", "--trust-domain"),
    "server": Meaning("The server's gRPC port, HOST:PORT.", "--server"),
    "data_dir": Meaning(
        "Where sealed certificates and what Envoys need in an outage are kept.", "--data-dir"
    ),
    "socket_path": Meaning("The public socket: Workload API, SDS and more.", "--socket"),
    "admin_socket_path": Meaning("The operator's private socket.", "--admin-socket"),
    "first_trust": Meaning("How a new agent knows the server; exactly one of three ways."),
    "first_trust.bundle_file": Meaning("The server's bundle, PEM or SPIFFE JSON.", "--trust-bundle"),
    "first_trust.bundle_sha256": Meaning("The hash of the server's bundle.", "--trust-bundle-sha256"),
    "first_trust.insecure": Meaning(
        "Believe whoever answers first. Only for trying out.", "--insecure-bootstrap"
    ),
    "rebootstrap": Meaning(
        "Whether the first trust is asked again when the server's authorities are none that the agent knows.",
        "--rebootstrap",
    ),
    "rebootstrap_delay": Meaning(
        "For how long the server must be unknown before that.", "--rebootstrap-delay"
    ),
    "join_token_file": Meaning("A file of mode 0600 with a join token.", "--join-token-file"),
    "kek_file": Meaning("The key that seals what is kept; otherwise DATA_DIR/kek.", "--kek-file"),
    "supervisor_fd": Meaning(
        "An inherited, connected socket over which a supervisor grants keys.", "--supervisor-fd"
    ),
    "health": Meaning("Where /live, /ready and /metrics are served, HOST:PORT.", "--health"),
    "workload_attestors": Meaning(
        "How workloads are known: names, each with its settings.", "--workload-attestor"
    ),
    "node_attestor": Meaning("How this node proves itself: one name, with its settings.", "--node-attestor"),
    "delegation_socket_path": Meaning(
        "A socket for delegates, who may ask for others' identities.", "--delegation-socket"
    ),
    "authorized_delegates": Meaning("The SPIFFE IDs of those delegates.", "--authorized-delegate"),
    "sds": Meaning("How Envoys name secrets."),
    "experimental_wit_svids": Meaning(
        "Serve WIT-SVIDs, too: tokens bound to a key. The standard is not finished.",
        "--experimental-wit-svids",
    ),
    "locality": Meaning("Where this node is, REGION or REGION/ZONE; told of its instances.", "--locality"),
    "decision_log": Meaning(
        "Where a line goes for each call that is decided here, and what is left out of it."
    ),
    "decision_log.file": Meaning(
        "A file of JSON lines; otherwise it is in the data directory; off for none."
    ),
    "decision_log.file_size": Meaning("Bytes after which a new file is begun."),
    "decision_log.files_kept": Meaning("How many full files are kept."),
    "decision_log.stdout": Meaning("Also on standard output, for a collector of what programs print."),
    "decision_log.url": Meaning(
        "Also by POST to a collector, as gzipped JSON arrays; https, or this machine."
    ),
    "decision_log.bearer_token_file": Meaning("A file of mode 0600 with the collector's bearer token."),
    "decision_log.ca_file": Meaning(
        "Who may sign the collector's certificate; otherwise the system's authorities."
    ),
    "decision_log.sample": Meaning(
        "Per cent of the allowed calls; denials and break-glass are always logged."
    ),
    "decision_log.mask": Meaning(
        "What is masked: names of fields, claims.NAME, path:/a/* for segments of paths."
    ),
    "decision_log.claims": Meaning("Which claims of verified tokens are logged; otherwise none."),
    "sds.default_svid_name": Meaning("What Envoys call their first identity.", "--sds-default-svid-name"),
    "sds.default_bundle_name": Meaning(
        "What Envoys call the trust domain's bundle.", "--sds-default-bundle-name"
    ),
    "sds.default_all_bundles_name": Meaning(
        "What Envoys call all bundles together.", "--sds-default-all-bundles-name"
    ),
    "sds.disable_spiffe_cert_validation": Meaning(
        "Give Envoys a plain trusted_ca instead of the SPIFFE validator.",
        "--disable-spiffe-cert-validation",
    ),
}

SPIRE: Final = {
    "server.bind_address": "`bind_address`",
    "server.socket_path": "`socket_path`",
    "server.federation": "`federation_…`, `vestibule federation` and `vestibule bundle`",
    "server.ca_key_type": "all keys are EC P-256",
    "server.ca_subject": "names in authorities are fixed",
    "server.jwt_key_type": "all keys are EC P-256",
    "server.audit_log_enabled": "the audit log is always on, in `data_dir`",
    "server.log_level": "the option `--log-level`",
    "server.log_format": "the option `--log-format`",
    "server.log_file": "standard error; let systemd or a collector keep it",
    "server.ratelimit": "`ratelimit_attestation` and `ratelimit_signing`",
    "server.experimental": "nothing here is experimental by configuration",
    "server.plugins": "`node_attestors`, `key_storage` and `database`",
    "server.telemetry": "`/metrics` at `health_address` and `health_port`",
    "server.health_checks": "`health_address` and `health_port`",
    "server.prune_attested_nodes_expired_for": "`vestibule agent purge`",
    "server.DataStore": "`database`",
    "server.KeyManager": "`key_storage`",
    "server.NodeAttestor": "`node_attestors`",
    "agent.server_address": "`server`, as HOST:PORT",
    "agent.server_port": "`server`, as HOST:PORT",
    "agent.admin_socket_path": "`admin_socket_path`",
    "agent.join_token": "`join_token_file`: a secret does not stand in settings",
    "agent.trust_bundle_path": "`first_trust: {bundle_file: …}`",
    "agent.trust_bundle_url": "`first_trust: {bundle_file: …}`, brought over a way that you trust",
    "agent.trust_bundle_format": "both formats are recognised",
    "agent.insecure_bootstrap": "`first_trust: {insecure: true}`",
    "agent.rebootstrap_mode": "`rebootstrap`",
    "agent.workload_x509_svid_key_type": "all keys are EC P-256",
    "agent.availability_target": "certificates are renewed at half of their life",
    "agent.log_level": "the option `--log-level`",
    "agent.log_format": "the option `--log-format`",
    "agent.log_file": "standard error; let systemd or a collector keep it",
    "agent.experimental": "changes are pushed, so there is no interval to set",
    "agent.plugins": "`workload_attestors`, `node_attestor`",
    "agent.telemetry": "`/metrics` at `health`",
    "agent.health_checks": "`health`",
    "agent.WorkloadAttestor": "`workload_attestors`",
    "agent.NodeAttestor": "`node_attestor`",
    "agent.KeyManager": "keys are sealed in `data_dir`; `kek_file` says with what",
}
"""Keys of SPIRE's configuration files and what there is instead: for the page in docs, and for who types them here."""
