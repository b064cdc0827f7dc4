"""Attestation by a projected service account token, which the cluster's API server confirms (TokenReview).

The payload is SPIRE's: ``{"cluster": NAME, "token": JWT}``.  The agent becomes ``…/k8s_psat/CLUSTER/NODE-UID`` and
can attest again: tokens are short-lived and bound to the agent's pod.

Selectors: ``k8s_psat:cluster``, ``agent_ns``, ``agent_sa``, ``agent_pod_name``, ``agent_pod_uid``,
``agent_pod_label:K:V``, ``agent_node_ip``, ``agent_node_name``, ``agent_node_uid``, ``agent_node_label:K:V``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from vestibule.attest.documents import at, json_object, labels_at, text_at, texts_at
from vestibule.attest.node.codes import (
    EVIDENCE_REFUSED,
    MALFORMED_EVIDENCE,
    NO_EVIDENCE,
    UNEXPECTED_CHALLENGE,
    UNSAFE_ATTESTOR,
    VERIFIER_UNAVAILABLE,
)
from vestibule.attest.node.evidence import agent_named, evidence_object, selectors
from vestibule.attest.node.ports import AttestedNode, Challenge
from vestibule.attest.ports import Http
from vestibule.errors import VestibuleError
from vestibule.spiffe import TrustDomain

NAME: Final = "k8s_psat"
MAX_TOKEN: Final = 32 * 1024
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"

_SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Names become parts of paths at the API server.
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """One cluster: how to ask its API server, and which service accounts (``NAMESPACE:NAME``) are agents'.

    ``api_server`` is HOST:PORT; the server shows the token in ``token_file``, which must be allowed to create
    token reviews and to get pods and nodes.
    """

    service_accounts: tuple[str, ...]
    api_server: str = "kubernetes.default.svc:443"
    ca_file: Path = _SECRETS / "ca.crt"
    server_name: str = ""
    token_file: Path = _SECRETS / "token"
    audience: tuple[str, ...] = ("spire-server",)
    allowed_node_label_keys: tuple[str, ...] = ()
    allowed_pod_label_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class K8sPsatSettings:
    """The clusters by name; the agents say which one is theirs."""

    clusters: Mapping[str, ClusterSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class K8sPsatProofSettings:
    """The name of the agent's cluster, and where its projected token is."""

    cluster: str
    token_file: Path = Path("/var/run/secrets/tokens/spire-agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that can be asked; ``token`` reads the server's own token."""

    settings: ClusterSettings
    api: Http
    token: Callable[[], str]

    async def ask(self, method: str, target: str, document: Any = None) -> dict[str, Any]:
        """Raises: VST2007."""
        body = b"" if document is None else json.dumps(document).encode()
        try:
            headers = {"Authorization": f"Bearer {self.token()}", "Content-Type": "application/json"}
            answer = await self.api(method, target, headers=headers, body=body)
            if answer.status not in (200, 201):
                raise VERIFIER_UNAVAILABLE.error(f"the API server answers {answer.status} to {target}")
            return json_object(answer.body)
        except (OSError, ValueError) as error:
            raise VERIFIER_UNAVAILABLE.error(f"the API server cannot be asked: {error}") from error


class K8sPsatAttestor:
    """The server's half."""

    name = NAME

    def __init__(self, clusters: Mapping[str, Cluster], trust_domain: TrustDomain) -> None:
        """Raises: VST2009."""
        self._clusters = clusters
        self._trust_domain = trust_domain
        if not clusters:
            raise UNSAFE_ATTESTOR.error("no cluster is set")
        for name, cluster in clusters.items():
            if not cluster.settings.service_accounts or not cluster.settings.audience:
                raise UNSAFE_ATTESTOR.error(
                    f"cluster {name}: service accounts and an audience have to be set"
                )
            try:
                agent_named(trust_domain, NAME, name)
            except VestibuleError as error:
                raise UNSAFE_ATTESTOR.error(f"{name!r} cannot be part of an agent's name") from error

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        """Raises: VST2003 (malformed), VST2004 (refused), VST2007 (API server).

        1. The token is of a cluster of ours.
        2. Its API server says that the token is genuine, current, and *for us* (audience).
        3. It belongs to a service account that agents have, and is bound to a pod.
        4. That pod exists, is still the same one, and runs on a node that exists; the node is what attests.
        """
        name, token = _read(payload)
        cluster = self._clusters.get(name)  # 1
        if cluster is None:
            raise EVIDENCE_REFUSED.error(f"cluster {name!r} is not among those whose nodes may attest")
        status = await self._reviewed(cluster, token)  # 2
        namespace, account = _service_account(status)  # 3
        if f"{namespace}:{account}" not in cluster.settings.service_accounts:
            raise EVIDENCE_REFUSED.error(f"{namespace}:{account} is not a service account of agents")
        pod_name, pod_uid = _extra(status, POD_NAME), _extra(status, POD_UID)
        pod = await cluster.ask("GET", f"/api/v1/namespaces/{_path(namespace)}/pods/{_path(pod_name)}")  # 4
        if not pod_uid or text_at(pod, "metadata", "uid") != pod_uid:
            raise EVIDENCE_REFUSED.error(f"pod {pod_name} is another one than the token was made for")
        node_name = text_at(pod, "spec", "nodeName")
        node = await cluster.ask("GET", f"/api/v1/nodes/{_path(node_name)}")
        values = {
            "cluster": name,
            "agent_ns": namespace,
            "agent_sa": account,
            "agent_pod_name": pod_name,
            "agent_pod_uid": pod_uid,
            "agent_node_ip": text_at(pod, "status", "hostIP"),
            "agent_node_name": node_name,
            "agent_node_uid": text_at(node, "metadata", "uid"),
        }
        return AttestedNode(
            agent_id=agent_named(self._trust_domain, NAME, name, values["agent_node_uid"]),
            selectors=selectors(NAME, (*_pairs(values), *_labels(cluster.settings, pod, node))),
            can_reattest=True,
        )

    async def _reviewed(self, cluster: Cluster, token: str) -> Any:
        wanted = list(cluster.settings.audience)
        review = await cluster.ask(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": wanted},
            },
        )
        status = at(review, "status")
        if at(status, "authenticated") is not True or text_at(status, "error"):
            raise EVIDENCE_REFUSED.error("the API server does not accept the token")
        # An authenticator that knows nothing of audiences answers without them, and would take any token.
        if not set(wanted) & set(texts_at(status, "audiences")):
            raise EVIDENCE_REFUSED.error("the token is not for this server")
        return status


def _read(payload: bytes) -> tuple[str, str]:
    evidence = evidence_object(payload)
    name, token = text_at(evidence, "cluster"), text_at(evidence, "token")
    if not name or len(token) > MAX_TOKEN or not _JWT.fullmatch(token):
        raise MALFORMED_EVIDENCE.error("the cluster or the token is missing or malformed")
    return name, token


def _service_account(status: Any) -> tuple[str, str]:
    system, _, rest = text_at(status, "user", "username").partition(":")
    kind, _, names = rest.partition(":")
    namespace, _, account = names.partition(":")
    if (system, kind) != ("system", "serviceaccount") or not _OBJECT.fullmatch(namespace) or not account:
        raise EVIDENCE_REFUSED.error("the token is not that of a service account")
    return namespace, account


def _extra(status: Any, key: str) -> str:
    found = texts_at(status, "user", "extra", key)
    if len(found) != 1 or not found[0]:
        raise EVIDENCE_REFUSED.error("the token is not bound to a pod")
    return found[0]


def _path(name: str) -> str:
    if not _OBJECT.fullmatch(name) or ".." in name:
        raise EVIDENCE_REFUSED.error("a name of the cluster is none that Kubernetes has")
    return name


def _pairs(values: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{key}:{value}" for key, value in values.items() if value)


def _labels(settings: ClusterSettings, pod: Any, node: Any) -> Iterator[str]:
    for kind, thing, allowed in (
        ("agent_node_label", node, settings.allowed_node_label_keys),
        ("agent_pod_label", pod, settings.allowed_pod_label_keys),
    ):
        for key, value in labels_at(thing, "metadata", "labels").items():
            if key in allowed:
                yield f"{kind}:{key}:{value}"


class K8sPsatProof:
    """The agent's half."""

    name = NAME
    single_use = False

    def __init__(self, settings: K8sPsatProofSettings) -> None:
        self._settings = settings

    async def payload(self) -> bytes:
        """The token as it is now: the kubelet replaces it.  Raises: VST2008."""
        file = self._settings.token_file
        try:
            with file.open("rb") as opened:
                token = opened.read(MAX_TOKEN).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NO_EVIDENCE.error(f"{file} cannot be read: {error}") from error
        if not _JWT.fullmatch(token):
            raise NO_EVIDENCE.error(f"{file} holds no token")
        return json.dumps({"cluster": self._settings.cluster, "token": token}).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """There are no challenges.  Raises: VST2002."""
        raise UNEXPECTED_CHALLENGE.error("the server challenged a service account token")

    async def close(self) -> None:
        """There is nothing to put away."""
