"""k8s_psat: what the API server says, and what of it has to be held against the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.attest.doubles import WebAuthority
from tests.unit.attest.node.clouds import NOW, TD, KubeApi

from vestibule.app.attestor_choices import choices_of
from vestibule.app.server_attestors import node_attestors
from vestibule.attest.node import AttestedNode
from vestibule.attest.node.k8s_psat import K8sPsatProof, K8sPsatProofSettings
from vestibule.errors import VestibuleError

NAME = "kubernetes.example.org"


async def no_challenge(_: bytes) -> bytes:
    raise AssertionError


def payload(cluster: str = "demo", token: str = "aa.bb.cc") -> bytes:
    return json.dumps({"cluster": cluster, "token": token}).encode()


async def attest(directory: Path, api: KubeApi, data: bytes | None = None, **more: Any) -> AttestedNode:
    authority = WebAuthority()
    authority.write(directory)
    (directory / "token").write_text("server-token\n")
    async with api.http.on_tcp(authority.server_context(directory, NAME)) as port:
        cluster = {
            "api_server": f"127.0.0.1:{port}",
            "server_name": NAME,
            "ca_file": str(directory / "web-ca.pem"),
            "token_file": str(directory / "token"),
            "service_accounts": ["spire:spire-agent"],
            **more,
        }
        chosen = choices_of({"k8s_psat": {"clusters": {"demo": cluster}}})
        attestor = node_attestors(chosen, TD, None)[0]  # type: ignore[arg-type]
        return await attestor.attest(data or payload(), no_challenge, NOW)


async def test_a_node_is_attested_over_tls_by_settings_as_in_yaml(tmp_path: Path) -> None:
    node = await attest(tmp_path, KubeApi())
    assert node.agent_id.path == "/spire/agent/k8s_psat/demo/node-uid-1"
    assert not [each for each in node.selectors if "label" in each.value]


@pytest.mark.parametrize(
    "data", [payload("other"), payload(token="xx.yy.zz"), payload(token="no token"), payload("")]
)
async def test_another_cluster_or_token_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VestibuleError, match=r"VST200[34]"):
        await attest(tmp_path, KubeApi(), data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"authenticated": False}, "does not accept"),
        ({"authenticated": "true"}, "does not accept"),
        ({"error": "expired"}, "does not accept"),
        ({"audiences": []}, "not for this server"),
        ({"audiences": ["https://kubernetes.default.svc"]}, "not for this server"),
        ({"user": {"username": "system:serviceaccount:spire:other"}}, "not a service account of agents"),
        (
            {"user": {"username": "system:serviceaccount:other:spire-agent"}},
            "not a service account of agents",
        ),
        ({"user": {"username": "system:node:spire:spire-agent"}}, "not that of a service account"),
        ({"user": {"username": "alice"}}, "not that of a service account"),
        ({"user": {"username": "system:serviceaccount:../..:x"}}, "not that of a service account"),
        ({"user": {"username": "system:serviceaccount:spire:spire-agent"}}, "not bound to a pod"),
    ],
)
async def test_what_the_review_says_is_held_against_the_settings(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    api = KubeApi()
    api.status |= change
    with pytest.raises(VestibuleError, match=f"VST2004 .*{why}"):
        await attest(tmp_path, api)


async def test_a_pod_that_was_replaced_does_not_attest(tmp_path: Path) -> None:
    api = KubeApi()
    api.pod["metadata"]["uid"] = "pod-uid-2"
    with pytest.raises(VestibuleError, match=r"VST2004 .*another one"):
        await attest(tmp_path, api)


@pytest.mark.parametrize("name", ["../../../nodes/node-1", "a?b", "A", "a/b", ".."])
async def test_names_lead_to_no_other_place_of_the_api(tmp_path: Path, name: str) -> None:
    api = KubeApi()
    api.status["user"]["extra"]["authentication.kubernetes.io/pod-name"] = [name]
    with pytest.raises(VestibuleError, match="VST2004"):
        await attest(tmp_path, api)
    assert len(api.http.asked) == 1


async def test_an_api_server_that_is_away_refuses_or_is_another_is_no_verdict(tmp_path: Path) -> None:
    api = KubeApi()
    api.http.answers["GET /api/v1/nodes/node-1"] = (403, b"{}")
    with pytest.raises(VestibuleError, match="VST2007"):
        await attest(tmp_path, api)
    with pytest.raises(VestibuleError, match="VST2340"):
        await attest(tmp_path, KubeApi(), server_name="another.example.org")


@pytest.mark.parametrize("more", [{"service_accounts": []}, {"audience": []}, {"service_account": "x"}])
async def test_settings_that_let_anybody_in_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        await attest(tmp_path, KubeApi(), **more)
    with pytest.raises(VestibuleError, match="VST9110"):
        node_attestors(choices_of({"k8s_psat": None}), TD, None)  # type: ignore[arg-type]


async def test_the_agent_reads_its_token_anew(tmp_path: Path) -> None:
    proof = K8sPsatProof(K8sPsatProofSettings(cluster="demo", token_file=tmp_path / "t"))
    for text in ("", "no token"):
        (tmp_path / "t").write_text(text)
        with pytest.raises(VestibuleError, match="VST2008"):
            await proof.payload()
    for token in ("a.b.c", "d.e.f"):
        (tmp_path / "t").write_text(token + "\n")
        assert json.loads(await proof.payload()) == {"cluster": "demo", "token": token}
