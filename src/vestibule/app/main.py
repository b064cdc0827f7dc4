"""The program ``vestibule``: one line per command.

A command is a plain function with typer annotations.  Its module is imported only when it runs, so keep this
file free of other imports, and a new command to one line below.
"""

from __future__ import annotations

import os
from typing import Final

from vestibule.cli.lazy import Lazy, program

GROUPS: Final = {
    "authz": "Decisions for Envoys that are not Vestibule's.",
    "import": "Others' documents as files of an intent.",
    "server": "The server: identities, mesh control plane.",
    "agent": "The node agent, and the agents that the server knows.",
    "entry": "Registration entries: who may be what.",
    "admin": "Who may administer the server over its port, within which bounds.",
    "token": "Join tokens for agents.",
    "bundle": "Trust bundles: the own one, and those of federated trust domains.",
    "federation": "Other trust domains whose workloads ours may believe.",
    "authority": "The keys that sign: shown, prepared, activated, tainted, revoked.",
    "authority x509": "Those of X.509-SVIDs.",
    "authority jwt": "Those of JWT-SVIDs.",
    "authority wit": "Those of WIT-SVIDs.",
    "authority upstream": "The roots of the upstream that signs this server's authorities.",
    "ca": "The offline root above the servers, and its ceremonies.",
    "ca transcript": "What was done in ceremonies, for witnesses.",
    "svid": "Credentials of this process, from the Workload API.",
    "x509": "X.509-SVIDs from the operator's hand.",
    "jwt": "JWT-SVIDs from the operator's hand.",
    "revoke": "Take back identities, certificates, agents, authorities.",
    "break-glass": "What no rule allows, permitted for a while in an emergency.",
    "policy": "Rules: tested, shown, learned from what was called.",
    "secret": "Secrets: who may have them, and what was done with them.",
    "oauth": "Access tokens: got, given in exchange, looked into, revoked; the keys that sign them.",
    "rollout": "How a new intent reaches the proxies: shown, steered.",
    "audit": "The log of administrative and issuing acts.",
    "logger": "How much a running server or agent writes into its log.",
    "debug": "What a running server or agent counts.",
}

COMMANDS: Final = {
    "up": Lazy("vestibule.app.up.command:up", "Run everything on this machine, from an intent directory."),
    "server run": Lazy("vestibule.app.server_command:run", "Run the server."),
    "server validate": Lazy("vestibule.app.validate_command:server", "Check a server's configuration file."),
    "agent validate": Lazy("vestibule.app.validate_command:agent", "Check an agent's configuration file."),
    "agent run": Lazy("vestibule.app.agent_command:run", "Run the agent of this node."),
    "authz run": Lazy("vestibule.app.authz_command:run", "Decide about calls for other Envoys (ext_authz)."),
    "sidecar": Lazy(
        "vestibule.app.sidecar_command:sidecar", "Stand beside an app: identity and mTLS for it."
    ),
    "replace-envoy": Lazy(
        "vestibule.app.sidecar_command:replace_envoy", "Put a new Envoy in the place of one that serves."
    ),
    "check": Lazy("vestibule.cli.check:check", "Is everything healthy?"),
    "scan": Lazy(
        "vestibule.cli.scan:scan", "What endpoints show, ask of callers and let through: TLS, from outside."
    ),
    "healthcheck": Lazy("vestibule.cli.healthcheck:healthcheck", "Can the server or the agent do its work?"),
    "status": Lazy("vestibule.cli.status:status", "What the proxies have, and how long certificates last."),
    "calls": Lazy(
        "vestibule.cli.calls:calls", "Who called what, by which route and version: the access log, counted."
    ),
    "decisions": Lazy(
        "vestibule.cli.decisions:decisions", "What was decided on this node, by which rule: the decision log."
    ),
    "validate": Lazy("vestibule.cli.validate:validate", "Check an intent directory: all problems at once."),
    "import istio": Lazy("vestibule.cli.import_:istio", "Make an intent of Istio's documents."),
    "import gateway-api": Lazy(
        "vestibule.cli.import_:gateway_api", "Make an intent of Gateway API's routes."
    ),
    "import sidecars": Lazy("vestibule.cli.import_:sidecars", "Make an intent of lone sidecars' files."),
    "plan": Lazy(
        "vestibule.cli.plan:plan", "What a change of the intent means: who gains or loses which call."
    ),
    "graph": Lazy(
        "vestibule.cli.graph:show_graph", "Who calls whom: as text, for Graphviz, or as a picture."
    ),
    "coverage": Lazy(
        "vestibule.cli.coverage:show_coverage",
        "Who is called over mutual TLS, in plain text, or past its proxy.",
    ),
    "trace": Lazy("vestibule.cli.trace:trace", "One request through all services, and where its time went."),
    "diagnose": Lazy("vestibule.cli.diagnose:diagnose", "Which layer broke a call, and what to do about it."),
    "explain": Lazy(
        "vestibule.cli.explain:explain", "Which rule decides a call, and what the nearest one misses."
    ),
    "policy test": Lazy(
        "vestibule.cli.policy_cases:run_cases", "Decide the cases beside a policy: are all as expected?"
    ),
    "policy lint": Lazy("vestibule.cli.policy_lint:lint", "Rules that are probably not what was meant."),
    "policy matrix": Lazy("vestibule.cli.policy_matrix:matrix", "Who may call what, at a glance."),
    "policy suggest": Lazy(
        "vestibule.cli.policy_logs:suggest_rules", "The least rules that recorded calls need."
    ),
    "policy shadow": Lazy(
        "vestibule.cli.policy_shadow:shadow", "What would change if rules in shadow mode counted."
    ),
    "policy unused": Lazy("vestibule.cli.policy_logs:unused", "Rules that no recorded call needed."),
    "oauth token": Lazy("vestibule.cli.oauth:token", "Get an access token of this workload's own."),
    "oauth exchange": Lazy(
        "vestibule.cli.oauth:exchange", "Give a token to act for whom it is of elsewhere."
    ),
    "oauth inspect": Lazy("vestibule.cli.oauth:inspect", "What stands in a token, and whether it holds."),
    "oauth keys": Lazy("vestibule.cli.oauth_admin:keys", "The keys that sign tokens: shown, rotated."),
    "oauth clients": Lazy("vestibule.cli.oauth_admin:clients", "Who has had tokens, and who was refused."),
    "oauth revoke": Lazy("vestibule.cli.oauth_admin:revoke", "Have tokens count no longer."),
    "secret put": Lazy("vestibule.cli.secret:put", "Keep a new version of a secret."),
    "secret get": Lazy("vestibule.cli.secret:get", "Read a secret."),
    "secret list": Lazy("vestibule.cli.secret:list_secrets", "List what is in a folder."),
    "secret history": Lazy("vestibule.cli.secret:history", "Show the versions of a secret."),
    "secret rollback": Lazy("vestibule.cli.secret:rollback", "Make an older version the newest again."),
    "secret delete": Lazy("vestibule.cli.secret:delete", "Delete versions of a secret."),
    "secret undelete": Lazy("vestibule.cli.secret:undelete", "Take back the deletion of versions."),
    "secret destroy": Lazy("vestibule.cli.secret:destroy", "Destroy versions for good."),
    "secret rotate": Lazy(
        "vestibule.cli.secret:rotate", "Replace a value, a password or a key by a new one."
    ),
    "secret access-log": Lazy(
        "vestibule.cli.secret_log:access_log", "Who read which secret, when, by which rule."
    ),
    "secret who-can-read": Lazy(
        "vestibule.cli.secret_policy:who_can_read", "Who may read a secret now, and by which rule."
    ),
    "secret what-can": Lazy("vestibule.cli.secret_policy:what_can", "What an identity may do with secrets."),
    "secret status": Lazy("vestibule.cli.secret_seal:status", "Is the secret manager sealed, and how?"),
    "secret init": Lazy("vestibule.cli.secret_seal:init", "Make its keys, and print the shares."),
    "secret unseal": Lazy("vestibule.cli.secret_seal:unseal", "Give a share."),
    "secret seal": Lazy("vestibule.cli.secret_seal:seal", "Have it forget all keys."),
    "secret rekey": Lazy("vestibule.cli.secret_seal:rekey", "Replace the seal, and its shares."),
    "secret rotate-keys": Lazy("vestibule.cli.secret_seal:rotate_keys", "Encrypt with a new key."),
    "secret backup": Lazy("vestibule.cli.secret_backup:backup", "Write all secrets into one encrypted file."),
    "secret restore": Lazy("vestibule.cli.secret_backup:restore", "Put a backup in place of what there is."),
    "rollout show": Lazy(
        "vestibule.cli.rollout:rollout", "Show which intent the proxies have, and who is behind and why."
    ),
    "rollout history": Lazy("vestibule.cli.rollout:history", "List the intents that were taken up."),
    "rollout pause": Lazy("vestibule.cli.rollout:pause", "Try nothing new, and let no wave follow."),
    "rollout resume": Lazy("vestibule.cli.rollout:resume", "Go on, or try again what was refused."),
    "rollout promote": Lazy("vestibule.cli.rollout:promote", "Give the newest intent to all proxies now."),
    "rollback": Lazy("vestibule.cli.rollout:rollback", "Give all proxies an older intent."),
    "admin grant": Lazy("vestibule.cli.admin:grant", "Let an identity administer within bounds."),
    "admin list": Lazy("vestibule.cli.admin:list_grants", "List who may administer within bounds."),
    "admin revoke": Lazy("vestibule.cli.admin:revoke", "Take a grant back."),
    "why": Lazy("vestibule.cli.why:why", "Why a process or a SPIFFE ID has an identity, or none."),
    "entry create": Lazy("vestibule.cli.entry:create", "Create a registration entry."),
    "entry show": Lazy("vestibule.cli.entry:show", "Show registration entries."),
    "entry export": Lazy("vestibule.cli.entry:export", "Print all entries as a file."),
    "entry update": Lazy("vestibule.cli.entry:update", "Change a registration entry."),
    "entry delete": Lazy("vestibule.cli.entry:delete", "Delete a registration entry."),
    "entry count": Lazy("vestibule.cli.entry:count", "Count registration entries."),
    "agent list": Lazy("vestibule.cli.agent:list_agents", "List the agents that the server knows."),
    "agent count": Lazy("vestibule.cli.agent:count", "Count the agents that the server knows."),
    "agent show": Lazy("vestibule.cli.agent:show", "Show one agent."),
    "agent ban": Lazy("vestibule.cli.agent:ban", "Shut an agent out until it is evicted."),
    "agent evict": Lazy("vestibule.cli.agent:evict", "Forget an agent; it may attest again."),
    "agent purge": Lazy("vestibule.cli.agent:purge", "Evict agents that have been gone for long."),
    "token generate": Lazy("vestibule.cli.token:generate", "Make a join token for one agent."),
    "bundle show": Lazy("vestibule.cli.bundle:show", "Print the trust bundle."),
    "bundle list": Lazy("vestibule.cli.bundle:list_bundles", "Print the bundles of other trust domains."),
    "bundle set": Lazy("vestibule.cli.bundle:set_bundle", "Keep another trust domain's bundle."),
    "bundle delete": Lazy("vestibule.cli.bundle:delete", "Delete bundles of other trust domains."),
    "bundle count": Lazy("vestibule.cli.bundle:count", "Count the bundles."),
    "federation create": Lazy("vestibule.cli.federation:create", "Federate with a trust domain."),
    "federation update": Lazy("vestibule.cli.federation:update", "Change a federation relationship."),
    "federation delete": Lazy("vestibule.cli.federation:delete", "Delete federation relationships."),
    "federation list": Lazy("vestibule.cli.federation:list_relationships", "List federation relationships."),
    "federation show": Lazy("vestibule.cli.federation:show", "Show a relationship, and how fetching goes."),
    "federation refresh": Lazy("vestibule.cli.federation:refresh", "Fetch a trust domain's bundle now."),
    "authority x509 show": Lazy("vestibule.cli.authority:x509_show", "Show the X.509 authorities."),
    "authority x509 prepare": Lazy("vestibule.cli.authority:x509_prepare", "Make the next X.509 authority."),
    "authority x509 activate": Lazy(
        "vestibule.cli.authority:x509_activate", "Let the prepared X.509 authority sign."
    ),
    "authority x509 taint": Lazy(
        "vestibule.cli.authority:x509_taint", "Have everything that an old X.509 authority signed replaced."
    ),
    "authority x509 revoke": Lazy(
        "vestibule.cli.authority:x509_revoke", "Take a tainted X.509 authority out of the bundle."
    ),
    "authority jwt show": Lazy("vestibule.cli.authority:jwt_show", "Show the JWT authorities."),
    "authority jwt prepare": Lazy("vestibule.cli.authority:jwt_prepare", "Make the next JWT authority."),
    "authority jwt activate": Lazy(
        "vestibule.cli.authority:jwt_activate", "Let the prepared JWT authority sign."
    ),
    "authority jwt taint": Lazy(
        "vestibule.cli.authority:jwt_taint", "Have everything that an old JWT authority signed replaced."
    ),
    "authority jwt revoke": Lazy(
        "vestibule.cli.authority:jwt_revoke", "Take a tainted JWT authority out of the bundle."
    ),
    "authority wit show": Lazy("vestibule.cli.authority:wit_show", "Show the WIT authorities."),
    "authority wit prepare": Lazy("vestibule.cli.authority:wit_prepare", "Make the next WIT authority."),
    "authority wit activate": Lazy(
        "vestibule.cli.authority:wit_activate", "Let the prepared WIT authority sign."
    ),
    "authority wit taint": Lazy(
        "vestibule.cli.authority:wit_taint", "Have everything that an old WIT authority signed replaced."
    ),
    "authority wit revoke": Lazy(
        "vestibule.cli.authority:wit_revoke", "Take a tainted WIT authority out of the bundle."
    ),
    "authority upstream taint": Lazy(
        "vestibule.cli.authority:upstream_taint", "Have everything below a root of the upstream replaced."
    ),
    "authority upstream revoke": Lazy(
        "vestibule.cli.authority:upstream_revoke", "Take a tainted root of the upstream out of the bundle."
    ),
    "svid fetch": Lazy("vestibule.cli.svid:fetch", "Fetch this process's X.509-SVIDs or JWT-SVIDs."),
    "svid validate": Lazy("vestibule.cli.svid:validate", "Ask the agent whether a JWT-SVID is valid."),
    "svid watch": Lazy("vestibule.cli.svid:watch", "Follow this process's X.509-SVIDs."),
    "svid write": Lazy(
        "vestibule.cli.svid_write:write", "Write this process's SVIDs to files, and keep them current."
    ),
    "curl": Lazy("vestibule.cli.curl:curl", "Call an endpoint as this process: its SVID, mutual TLS."),
    "svid exec": Lazy("vestibule.cli.svid_exec:execute", "Run a program with SVIDs in files of its own."),
    "x509 mint": Lazy("vestibule.cli.mint:x509", "Mint an X.509-SVID, without an agent."),
    "jwt mint": Lazy("vestibule.cli.mint:jwt", "Mint a JWT-SVID, without an agent."),
    "logger get": Lazy("vestibule.cli.logger:get", "Show the log level, and the one of the start."),
    "logger set": Lazy("vestibule.cli.logger:set_level", "Change the log level while it runs."),
    "logger reset": Lazy("vestibule.cli.logger:reset", "Go back to the log level of the start."),
    "debug info": Lazy("vestibule.cli.debug:info", "Show certificates, uptime and counts."),
    "revoke identity": Lazy("vestibule.cli.revoke:identity", "Revoke everything that proves an identity."),
    "revoke certificate": Lazy("vestibule.cli.revoke:certificate", "Revoke one certificate."),
    "revoke agent": Lazy("vestibule.cli.revoke:agent", "Ban an agent and revoke all that it had issued."),
    "revoke authority": Lazy("vestibule.cli.revoke:authority", "Revoke an authority and all below it."),
    "revoke list": Lazy("vestibule.cli.revoke:list_revocations", "List what is revoked."),
    "revoke show": Lazy("vestibule.cli.revoke:show", "Show revocations by a part of their name."),
    "revoke lift": Lazy("vestibule.cli.revoke:lift", "Let a revoked identity have new SVIDs."),
    "revoke crl": Lazy("vestibule.cli.revoke:crl", "Print an authority's certificate revocation list."),
    "break-glass open": Lazy(
        "vestibule.cli.break_glass:open_", "Permit what no rule allows, until it ends by itself."
    ),
    "break-glass list": Lazy(
        "vestibule.cli.break_glass:list_emergencies", "List what break-glass permits, and its uses."
    ),
    "break-glass close": Lazy("vestibule.cli.break_glass:close", "End a permission before its time."),
    "ca init": Lazy("vestibule.cli.ca:init", "Make an offline root."),
    "ca request": Lazy("vestibule.cli.ca_requests:request", "Ask an offline root for an intermediate."),
    "ca sign": Lazy("vestibule.cli.ca:sign", "Sign a request for an intermediate."),
    "ca install": Lazy("vestibule.cli.ca_requests:install", "Take the root's answer to a request."),
    "ca show": Lazy("vestibule.cli.ca:show", "Show an offline root and what it has signed."),
    "ca revoke": Lazy("vestibule.cli.ca:revoke", "Take an intermediate back."),
    "ca crl": Lazy("vestibule.cli.ca:crl", "Make the root's next revocation list."),
    "ca transcript verify": Lazy("vestibule.cli.ca_transcript:check", "Check transcripts of ceremonies."),
    "audit list": Lazy("vestibule.cli.audit_records:list_records", "List records of the audit log."),
    "audit show": Lazy("vestibule.cli.audit_records:show", "Show one record whole."),
    "audit export": Lazy("vestibule.cli.audit_records:export", "Write records for other programs."),
    "audit anchor": Lazy("vestibule.cli.audit:anchor", "Print the end of a log, to be kept elsewhere."),
    "audit verify": Lazy("vestibule.cli.audit:check", "Check that an audit log is whole."),
    "audit key": Lazy("vestibule.cli.audit_proofs:key", "Print the key that signs the log's checkpoints."),
    "audit prove": Lazy(
        "vestibule.cli.audit_proofs:prove_record", "Prove one record to somebody who sees no other."
    ),
    "audit check-proof": Lazy(
        "vestibule.cli.audit_proofs:check_proof", "Check such a proof, without the log."
    ),
    "audit search": Lazy(
        "vestibule.cli.audit_search:search", "Find a word in the records of one log or several."
    ),
}

cli: Final = program(
    "vestibule",
    "Zero-trust calls between services: SPIFFE identity, Envoy sidecars and their control plane.",
    COMMANDS,
    GROUPS,
    {"rollout": "show"},
)


def main() -> None:
    """The console entry."""
    if not os.path.isdir("/usr/share/zoneinfo"):  # noqa: PTH112 - pathlib takes as long as all the rest
        _find_time_zones()
    cli()


def _find_time_zones() -> None:
    """Conditions ask for them, in this process and in its children."""
    from vestibule.clock import time_zones

    if (zones := time_zones()) is not None:
        os.environ.setdefault("TZDIR", str(zones))
