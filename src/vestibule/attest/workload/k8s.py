"""What the kubelet of this node says of the caller's pod and container.

Selectors (as SPIRE names them): ``k8s:ns``, ``sa``, ``node-name``, ``pod-name``, ``pod-uid``, ``pod-label:K:V``,
``pod-owner:KIND:NAME``, ``pod-owner-uid:KIND:UID``, ``pod-image``, ``pod-image-count``, ``pod-init-image``,
``pod-init-image-count``, ``container-name`` and ``container-image``.  Images are named as the kubelet reports
them, by name and by digest.

Pod and container come from the kernel's control groups (``cgroups``); the kubelet only says what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.attest.documents import at, json_object, labels_at, objects_at, text_at
from vestibule.attest.ports import Http
from vestibule.attest.workload.cgroups import Container, cgroups_of, pod_container_of
from vestibule.attest.workload.codes import KUBELET_ANSWER, POD_NOT_KNOWN
from vestibule.attest.workload.ports import Process
from vestibule.spiffe import Selector

TYPE: Final = "k8s"
FRESH: Final = 0.25
"""Seconds for which one answer of the kubelet serves everyone who asks."""
TRIES: Final = 8
PAUSE: Final = 0.4
"""A container runs before the kubelet reports it: so often, and so many seconds apart, it is asked again."""

_SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FIELDS: Final = {
    "ns": ("metadata", "namespace"),
    "sa": ("spec", "serviceAccountName"),
    "node-name": ("spec", "nodeName"),
    "pod-name": ("metadata", "name"),
    "pod-uid": ("metadata", "uid"),
}
_Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class K8sSettings:
    """How to ask the kubelet.

    ``kubelet`` is HOST:PORT; its certificate is checked for ``server_name`` (default: the host) under ``ca_file``,
    unless ``skip_verification``: then whoever answers there gets the token and is believed.  The agent shows the
    token in ``token_file``, or a certificate.
    ``plain`` asks the read-only port, without TLS or proof.
    """

    kubelet: str = "127.0.0.1:10250"
    plain: bool = False
    ca_file: Path = _SECRETS / "ca.crt"
    server_name: str = ""
    skip_verification: bool = False
    token_file: Path | None = _SECRETS / "token"
    certificate_file: Path | None = None
    key_file: Path | None = None


class K8sAttestor:
    """Attests by the kubelet's list of pods."""

    name: Final = TYPE

    def __init__(self, kubelet: Http, token: Callable[[], str], *, pause: float = PAUSE) -> None:
        """``token`` is read anew for every question, since kubelets replace it; "" shows none."""
        self._kubelet = kubelet
        self._token = token
        self._pause = pause
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._pods: list[_Pod] = []

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Nothing for a process outside of pods.

        Raises: VST2054, VST2055 (control groups), VST2070, VST2071 (kubelet), VST2340, VST2341, VST2312.
        """
        container = pod_container_of(cgroups_of(process))
        if container is None:
            return frozenset()
        pod, status = await self._find(container)
        values = {*_pod_values(pod), *_container_values(status)}
        return frozenset(Selector(TYPE, value) for value in values)

    async def _find(self, container: Container) -> tuple[_Pod, Mapping[str, Any]]:
        for remaining in reversed(range(TRIES)):
            found = [
                (pod, status)
                for pod in await self._list()
                if container.pod_uid in (None, text_at(pod, "metadata", "uid"))
                and (status := _status_of(pod, container.id)) is not None
            ]
            if len(found) == 1:
                return found[0]
            if found:
                raise POD_NOT_KNOWN.error(
                    f"the kubelet reports container {container.id[:12]} in several pods"
                )
            if remaining:
                await asyncio.sleep(self._pause)
        pod_uid = f" of pod {container.pod_uid}" if container.pod_uid else ""
        raise POD_NOT_KNOWN.error(f"the kubelet does not report container {container.id[:12]}{pod_uid}")

    async def _list(self) -> list[_Pod]:
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now - self._asked_at > FRESH:
                self._pods = await self._ask()
                self._asked_at = now
            return self._pods

    async def _ask(self) -> list[_Pod]:
        token = await asyncio.to_thread(self._token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = await self._kubelet("GET", "/pods", headers=headers)
        if answer.status != 200:
            raise KUBELET_ANSWER.error(f"the kubelet answers {answer.status}")
        try:
            document = await asyncio.to_thread(json_object, answer.body)
        except ValueError as error:
            raise KUBELET_ANSWER.error(f"the kubelet's answer is not understood: {error}") from error
        if not isinstance(at(document, "items"), list):
            raise KUBELET_ANSWER.error("the kubelet's answer is no list of pods")
        return list(objects_at(document, "items"))


def _status_of(pod: _Pod, container_id: str) -> Mapping[str, Any] | None:
    for kind in ("containerStatuses", "initContainerStatuses"):
        for status in objects_at(pod, "status", kind):
            # RUNTIME://ID
            if text_at(status, "containerID").partition("://")[2] == container_id:
                return status
    return None


def _pod_values(pod: _Pod) -> Iterator[str]:
    for kind, path in _FIELDS.items():
        if value := text_at(pod, *path):
            yield f"{kind}:{value}"
    for key, value in labels_at(pod, "metadata", "labels").items():
        yield f"pod-label:{key}:{value}"
    for owner in objects_at(pod, "metadata", "ownerReferences"):
        yield f"pod-owner:{text_at(owner, 'kind')}:{text_at(owner, 'name')}"
        yield f"pod-owner-uid:{text_at(owner, 'kind')}:{text_at(owner, 'uid')}"
    for kind, statuses in (("pod-image", "containerStatuses"), ("pod-init-image", "initContainerStatuses")):
        found = list(objects_at(pod, "status", statuses))
        yield f"{kind}-count:{len(found)}"
        yield from (f"{kind}:{image}" for status in found for image in _images(status))


def _container_values(status: Mapping[str, Any]) -> Iterator[str]:
    if name := text_at(status, "name"):
        yield f"container-name:{name}"
    yield from (f"container-image:{image}" for image in _images(status))


def _images(status: Mapping[str, Any]) -> Iterator[str]:
    yield from (image for key in ("image", "imageID") if (image := text_at(status, key)))
