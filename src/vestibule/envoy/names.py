"""The names that Vestibule's Envoys, the agent and the server have to agree on."""

from __future__ import annotations

from typing import Final

AGENT_CLUSTER: Final = "vestibule_agent"
"""The agent's public socket, for ADS, SDS and access logs."""

DECISIONS_CLUSTER: Final = "vestibule_decisions"
"""The same socket, over connections on which nothing but decisions are asked for."""

SIDECAR_CLUSTER: Final = "vestibule_sidecar"
"""The sidecar's own socket, for secrets that are made of files of the host."""

TOKENS_CLUSTER: Final = "tokens/http"
"""The mesh's own token service, as any other destination."""

PLATFORM_SERVER_CLUSTER: Final = "vestibule_server"
"""The server's private socket, for the secrets of the Envoy in front of its own services."""

PLATFORM_APP_CLUSTER: Final = "vestibule_platform"
"""Those services, each on a private socket of the server: what their clusters' names begin with."""

SIDECAR_MARK: Final = "vestibule_sidecar"
"""The key in a node's metadata by which a sidecar's own Envoy is known not to be anybody else's."""

BOOTSTRAP_CLUSTERS: Final = (AGENT_CLUSTER, DECISIONS_CLUSTER, SIDECAR_CLUSTER)
"""What every Envoy has from its bootstrap, so that what is compiled may refer to it."""

SVID_SECRET: Final = "default"  # noqa: S105 - a name, SPIRE's and Istio's
"""The SDS secret with the caller's own certificate and key."""

BUNDLE_SECRET: Final = "ROOTCA"  # noqa: S105 - a name, SPIRE's and Istio's
"""The SDS secret with the bundles of every trust domain, checked by the SPIFFE validator."""

AUTHORITIES_SECRET: Final = "vestibule/authorities"  # noqa: S105 - a name
"""The SDS secret with the own trust domain's authorities alone, for Envoy's default validator, which heeds CRLs."""

ASKED: Final = "vestibule/central"
"""The rule by which a proxy lets calls through to the question that a decision service answers."""

NO_DECISION: Final = "vestibule/no-decision"
"""The name under which calls are refused because there was no answer to the question."""

DECIDED: Final = "envoy.filters.http.ext_authz"
"""Under which name a proxy keeps what a decision service said."""
