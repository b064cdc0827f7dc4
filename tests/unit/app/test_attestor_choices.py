"""Which attestors an operator asks for, and how mistakes are named."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vestibule.app.agent_attestors import DEFAULT, chosen_attestors, workload_attestors
from vestibule.app.attestor_choices import Choice, choices_of, parse_choice, settings_of
from vestibule.app.server_settings import server_settings
from vestibule.attest.node.aws_iid import AwsIidProofSettings, AwsIidSettings
from vestibule.attest.node.gcp_iit import GcpIitProofSettings, GcpIitSettings
from vestibule.attest.node.http_challenge import HttpChallengeProofSettings, HttpChallengeSettings
from vestibule.attest.node.k8s_psat import ClusterSettings, K8sPsatProofSettings, K8sPsatSettings
from vestibule.attest.node.x509pop import X509PopProofSettings, X509PopSettings
from vestibule.attest.workload import attest_workload
from vestibule.attest.workload.docker import DockerSettings
from vestibule.attest.workload.k8s import K8sSettings
from vestibule.attest.workload.supervised import Vouched
from vestibule.attest.workload.systemd import SystemdSettings
from vestibule.attest.workload.unix import UnixSettings
from vestibule.errors import VestibuleError
from vestibule.net.peer import ProcessHandle


def names(*texts: str) -> list[str]:
    found = workload_attestors([parse_choice(text) for text in texts], Vouched(ProcessHandle))
    return [attestor.name for attestor in found]


def test_a_choice_is_a_name_with_settings() -> None:
    assert parse_choice("unix") == Choice(name="unix")
    given = parse_choice("docker=socket=/run/d.sock,env=off,podman_users=1,podman_users=2")
    assert settings_of(DockerSettings, given) == DockerSettings(
        socket=Path("/run/d.sock"), env=False, podman_users=(1, 2)
    )


def test_yaml_says_the_same_with_mappings_or_lists() -> None:
    mapping = choices_of({"unix": None, "docker": {"env": False, "podman_users": [1, 2]}})
    assert mapping == choices_of(["unix", "docker=env=off,podman_users=1,podman_users=2"])[:1] + mapping[1:]
    assert settings_of(DockerSettings, mapping[1]) == DockerSettings(env=False, podman_users=(1, 2))


def test_off_leaves_an_optional_setting_out() -> None:
    assert settings_of(K8sSettings, parse_choice("k8s=token_file=off")).token_file is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dokcer", "Did you mean docker?"),
        ("docker=sokcet=/x", "Did you mean socket?"),
        ("docker=socket", "Write socket=VALUE"),
        ("docker=env=perhaps", "perhaps"),
        ("docker=podman_users=me", "podman_users"),
        ("Docker", "not the name"),
        ("", "not the name"),
        ("supervised=a=b", "no settings"),
        ("k8s=kubelet=nowhere", "HOST:PORT"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(VestibuleError, match="VST9110") as caught:
        names(text)
    assert said in f"{caught.value} {caught.value.advice}"


@pytest.mark.parametrize("document", ["docker", 1, {"docker": 1}, {"docker": {"socket": ["/a", "/b"]}}])
def test_yaml_of_another_shape_is_refused(document: Any) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        workload_attestors(choices_of(document), Vouched(ProcessHandle))


def test_supervised_is_always_there_and_nothing_twice() -> None:
    assert names("docker", "k8s", "systemd") == ["supervised", "docker", "k8s", "systemd"]
    assert [each.name for each in workload_attestors(DEFAULT, Vouched(ProcessHandle))] == [
        "supervised",
        "unix",
    ]
    with pytest.raises(VestibuleError, match="VST9110"):
        names("unix", "unix")


async def test_an_attestor_of_another_package_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moonphase.py").write_text(
        "from vestibule.spiffe import Selector\n"
        "class Attestor:\n"
        "    name = 'moon'\n"
        "    def __init__(self, settings): self.phase = settings['phase']\n"
        "    async def attest(self, process): return frozenset({Selector('moon', f'phase:{self.phase}')})\n"
    )
    information = tmp_path / "moonphase-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: moonphase\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[vestibule.workload_attestors]\nmoon = moonphase:Attestor\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = workload_attestors([parse_choice("moon=phase=full")], Vouched(ProcessHandle))
    handle = ProcessHandle(os.getpid())
    assert {str(each) for each in await attest_workload(found, handle)} == {"moon:phase:full"}
    handle.close()
    sys.modules.pop("moonphase")


def test_options_win_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "attestors.yaml"
    file.write_text("workload_attestors:\n  docker:\n    env: false\n")
    assert chosen_attestors(None, ()).workload == DEFAULT
    assert chosen_attestors(file, ()).workload == (Choice(name="docker", values={"env": False}),)
    assert chosen_attestors(file, ("systemd",)).workload == (Choice(name="systemd"),)


@pytest.mark.parametrize("text", ["a: [", "- docker", "workload_attestor: {}", "a: 1\na: 2"])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "attestors.yaml"
    file.write_text(text)
    for path in (file, tmp_path / "nothing.yaml"):
        with pytest.raises(VestibuleError, match="VST9110"):
            chosen_attestors(path, ())


KINDS: dict[str, dict[str, Any]] = {
    "node_attestors": {"x509pop": X509PopSettings, "k8s_psat": K8sPsatSettings},
    "node_attestor": {"x509pop": X509PopProofSettings},
    "workload_attestors": {"unix": UnixSettings, "systemd": SystemdSettings, "docker": DockerSettings},
}


def test_the_settings_that_the_guide_shows_are_settings() -> None:
    page = (Path(__file__).parents[3] / "docs" / "attestors.md").read_text("utf-8")
    shown = set()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        for group, chosen in YAML(typ="safe", pure=True).load(block).items():
            for choice in choices_of(chosen):
                if choice.name != "join_token":
                    settings_of(KINDS[group][choice.name], choice)
                shown.add(choice.name)
    assert shown == {"join_token", "x509pop", "k8s_psat", "unix", "systemd", "docker"}


def test_the_guide_names_every_attestor_and_every_setting() -> None:
    page = (Path(__file__).parents[3] / "docs" / "attestors.md").read_text("utf-8")
    for kind in (*SETTINGS, ClusterSettings):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in page, f"{kind.__name__}.{name}"


SETTINGS: tuple[Any, ...] = (
    UnixSettings,
    SystemdSettings,
    DockerSettings,
    K8sSettings,
    X509PopSettings,
    X509PopProofSettings,
    HttpChallengeSettings,
    HttpChallengeProofSettings,
    K8sPsatSettings,
    K8sPsatProofSettings,
    GcpIitSettings,
    GcpIitProofSettings,
    AwsIidSettings,
    AwsIidProofSettings,
)


def test_the_servers_file_and_options_choose_node_attestors(tmp_path: Path) -> None:
    given = {"trust_domain": "example.org", "data_dir": tmp_path, "socket_path": tmp_path / "s.sock"}
    file = tmp_path / "server.yaml"
    file.write_text("node_attestors:\n  join_token:\n  gcp_iit:\n    projects: [a, b]\n")
    assert server_settings(given, None).node_attestors == (Choice(name="join_token"),)
    written = server_settings(given, file).node_attestors
    assert written == (Choice(name="join_token"), Choice(name="gcp_iit", values={"projects": ["a", "b"]}))
    assert settings_of(GcpIitSettings, written[1]).projects == ("a", "b")
    option = server_settings({**given, "node_attestors": ["gcp_iit=projects=a"]}, file).node_attestors
    assert option == (Choice(name="gcp_iit", values={"projects": "a"}),)
