"""The k8s attestor, on a kubelet that speaks HTTPS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.attest.doubles import CONTAINER, OTHER, POD, Asked, FakeHttp, FakeProcess, Reply, WebAuthority

from vestibule.app.agent_attestors import workload_attestors
from vestibule.app.attestor_choices import Choice
from vestibule.attest.workload.k8s import TRIES, K8sAttestor
from vestibule.attest.workload.ports import WorkloadAttestor
from vestibule.attest.workload.supervised import Vouched
from vestibule.errors import VestibuleError
from vestibule.net.peer import ProcessHandle

NODE = "node-1.example.org"


def pod(uid: str = POD, container: str = CONTAINER, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "orders-5d84p",
            "namespace": "shop",
            "uid": uid,
            "labels": {"app": "orders", "app.kubernetes.io/part-of": "shop"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "orders-5d84", "uid": "owner-uid"}],
        },
        "spec": {"serviceAccountName": "orders", "nodeName": NODE},
        "status": {
            "containerStatuses": [
                {
                    "name": "app",
                    "containerID": f"containerd://{container}",
                    "image": "registry.example/orders:1",
                    "imageID": "registry.example/orders@sha256:aa",
                },
                {
                    "name": "envoy",
                    "containerID": f"containerd://{OTHER}",
                    "image": "envoy:1",
                    "imageID": "e@sha256:b",
                },
                {"name": "not-yet-started"},
            ],
            "initContainerStatuses": [{"name": "prepare", "image": "busybox:1", "imageID": ""}],
            **status,
        },
    }


def listed(*pods: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "PodList", "items": pods}).encode()


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[FakeHttp]:
    authority = WebAuthority()
    authority.write(tmp_path)
    (tmp_path / "token").write_text("the-token\n")

    def pods(asked: Asked) -> Reply:
        allowed = asked.headers.get("authorization") == "Bearer the-token"
        return (200, double.body) if allowed else (401, b"who are you?")

    class Kubelet(FakeHttp):
        body = listed(pod())

    double = Kubelet({"GET /pods": pods})
    async with double.on_tcp(authority.server_context(tmp_path, NODE)):
        yield double


def chosen(directory: Path, kubelet: FakeHttp, **more: Any) -> WorkloadAttestor:
    values = {
        "kubelet": f"127.0.0.1:{kubelet.port}",
        "server_name": NODE,
        "ca_file": str(directory / "web-ca.pem"),
        "token_file": str(directory / "token"),
        **more,
    }
    found = workload_attestors([Choice(name="k8s", values=values)], Vouched(ProcessHandle))
    attestor = found[-1]
    assert isinstance(attestor, K8sAttestor)
    attestor._pause = 0
    return attestor


def inside(path: str = f"/kubepods/burstable/pod{POD}/{CONTAINER}") -> FakeProcess:
    return FakeProcess(f"0::{path}\n".encode())


async def test_a_workload_is_known_by_its_pod_and_container(tmp_path: Path, kubelet: FakeHttp) -> None:
    found = await chosen(tmp_path, kubelet).attest(inside())
    assert {str(each).removeprefix("k8s:") for each in found} == {
        "ns:shop",
        "sa:orders",
        f"node-name:{NODE}",
        "pod-name:orders-5d84p",
        f"pod-uid:{POD}",
        "pod-label:app:orders",
        "pod-label:app.kubernetes.io/part-of:shop",
        "pod-owner:ReplicaSet:orders-5d84",
        "pod-owner-uid:ReplicaSet:owner-uid",
        "pod-image-count:3",
        "pod-image:registry.example/orders:1",
        "pod-image:registry.example/orders@sha256:aa",
        "pod-image:envoy:1",
        "pod-image:e@sha256:b",
        "pod-init-image-count:1",
        "pod-init-image:busybox:1",
        "container-name:app",
        "container-image:registry.example/orders:1",
        "container-image:registry.example/orders@sha256:aa",
    }


async def test_outside_of_pods_the_kubelet_is_not_asked(tmp_path: Path, kubelet: FakeHttp) -> None:
    assert await chosen(tmp_path, kubelet).attest(inside(f"/docker/{CONTAINER}")) == frozenset()
    assert kubelet.asked == []


async def test_a_pod_that_cannot_be_seen_is_found_by_its_container(tmp_path: Path, kubelet: FakeHttp) -> None:
    found = await chosen(tmp_path, kubelet).attest(inside(f"/../crio-{CONTAINER}.scope"))
    assert f"k8s:pod-uid:{POD}" in {str(each) for each in found}


async def test_the_pod_must_be_the_one_of_the_control_group(tmp_path: Path, kubelet: FakeHttp) -> None:
    elsewhere = inside(f"/kubepods/pod{POD.replace('2c', '3c')}/{CONTAINER}")
    with pytest.raises(VestibuleError, match="VST2070"):
        await chosen(tmp_path, kubelet).attest(elsewhere)


async def test_a_container_in_two_pods_is_in_neither(tmp_path: Path, kubelet: Any) -> None:
    kubelet.body = listed(pod(), pod("another-uid"))
    with pytest.raises(VestibuleError, match="VST2070"):
        await chosen(tmp_path, kubelet).attest(inside(f"/../{CONTAINER}"))


async def test_a_container_that_is_not_yet_reported_is_waited_for(
    tmp_path: Path, kubelet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.attest.workload.k8s.FRESH", -1.0)
    late = listed(pod())
    kubelet.body = listed()
    answers = kubelet.answers["GET /pods"]

    def later(asked: Asked) -> Reply:
        if len(kubelet.asked) == 3:
            kubelet.body = late
        reply: Reply = answers(asked)
        return reply

    kubelet.answers["GET /pods"] = later
    assert await chosen(tmp_path, kubelet).attest(inside())
    assert len(kubelet.asked) == 3


async def test_a_container_that_is_never_reported_is_asked_for_a_bounded_number_of_times(
    tmp_path: Path, kubelet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.attest.workload.k8s.FRESH", -1.0)
    kubelet.body = listed()
    with pytest.raises(VestibuleError, match="VST2070"):
        await chosen(tmp_path, kubelet).attest(inside())
    assert len(kubelet.asked) == TRIES


async def test_many_callers_share_one_answer(tmp_path: Path, kubelet: FakeHttp) -> None:
    attestor = chosen(tmp_path, kubelet)
    for _ in range(5):
        await attestor.attest(inside())
    assert len(kubelet.asked) < 5


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"items": 1}', b"not json"])
async def test_what_is_no_list_of_pods_is_refused(tmp_path: Path, kubelet: Any, body: bytes) -> None:
    kubelet.body = body
    with pytest.raises(VestibuleError, match="VST2071"):
        await chosen(tmp_path, kubelet).attest(inside())


async def test_a_refused_token_is_named(tmp_path: Path, kubelet: FakeHttp) -> None:
    (tmp_path / "token").write_text("another")
    with pytest.raises(VestibuleError, match="VST2071 the kubelet answers 401"):
        await chosen(tmp_path, kubelet).attest(inside())


async def test_a_kubelet_of_another_name_or_authority_is_not_asked(tmp_path: Path, kubelet: FakeHttp) -> None:
    with pytest.raises(VestibuleError, match="VST2340"):
        await chosen(tmp_path, kubelet, server_name="another.example.org").attest(inside())
    WebAuthority().write(tmp_path)
    with pytest.raises(VestibuleError, match="VST2340"):
        await chosen(tmp_path, kubelet).attest(inside())
    assert kubelet.asked == []
    assert await chosen(tmp_path, kubelet, skip_verification="true").attest(inside())


async def test_the_read_only_port_is_never_shown_the_token(tmp_path: Path) -> None:
    double = FakeHttp({"GET /pods": (200, listed(pod()))})
    async with double.on_tcp():
        assert await chosen(tmp_path, double, plain="true").attest(inside())
    assert "authorization" not in double.asked[0].headers
