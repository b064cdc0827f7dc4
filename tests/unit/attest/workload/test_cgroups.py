"""Which container a process is in, and whom no name of a group deceives."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.attest.doubles import CONTAINER, OTHER, POD, FakeProcess

from vestibule.attest.workload.cgroups import (
    MAX_BYTES,
    Container,
    Engine,
    cgroups_of,
    container_in,
    container_of,
    parse_cgroups,
    pod_container_in,
    pod_container_of,
)
from vestibule.errors import VestibuleError
from vestibule.net.peer import ProcessHandle

UNDERSCORED = POD.replace("-", "_")
SLICE = f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("path", "engine", "owner"),
    [
        (f"/docker/{CONTAINER}", Engine.DOCKER, None),
        (f"/system.slice/docker-{CONTAINER}.scope", Engine.DOCKER, None),
        (f"/my.slice/docker-{CONTAINER}.scope/init", Engine.DOCKER, None),
        (f"/machine.slice/libpod-{CONTAINER}.scope", Engine.PODMAN, None),
        (f"/machine.slice/libpod-{CONTAINER}.scope/container", Engine.PODMAN, None),
        (f"/libpod_parent/libpod-{CONTAINER}", Engine.PODMAN, None),
        (f"/custom/{CONTAINER}", Engine.UNKNOWN, None),
        (f"/../docker-{CONTAINER}.scope", Engine.DOCKER, None),
        (f"{USER}/user.slice/libpod-{CONTAINER}.scope/container", Engine.PODMAN, 1000),
        (f"{USER}/user.slice/docker-{CONTAINER}.scope", Engine.DOCKER, 1000),
    ],
)
def test_containers_are_found_where_engines_put_them(path: str, engine: Engine, owner: int | None) -> None:
    assert container_in(path) == Container(id=CONTAINER, engine=engine, owner=owner)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-3.scope",
        f"/system.slice/any.service/docker-{CONTAINER}.scope",
        f"/user.slice/user-1000.slice/session-3.scope/docker/{CONTAINER}",
        f"/user.slice/user-1001.slice/user@1000.service/libpod-{CONTAINER}.scope",
        f"{USER}/app.slice/any.service/libpod-{CONTAINER}.scope",
        f"/docker/{CONTAINER[:-1]}",
        f"/docker/{CONTAINER}0",
        f"/docker/{CONTAINER.upper()}",
        f"/docker/x{CONTAINER}",
        f"/docker/{CONTAINER} (deleted)",
        f"/system.slice/docker-{CONTAINER}.scope.d",
    ],
)
def test_a_group_that_others_than_root_may_have_named_is_no_container(path: str) -> None:
    assert container_in(path) is None


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/burstable/pod{POD}/{CONTAINER}",
        f"/kubepods/pod{POD}/{CONTAINER}/more",
        f"/{SLICE}/crio-{CONTAINER}.scope",
        f"/{SLICE}/cri-containerd-{CONTAINER}.scope",
        f"/{SLICE}/docker-{CONTAINER}.scope",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        f"/kubelet/kubepods/besteffort/pod{POD}/{CONTAINER}",
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{CONTAINER}",
        f"/../../pod{POD}/{CONTAINER}",
    ],
)
def test_pods_are_found_where_kubelets_put_them(path: str) -> None:
    found = pod_container_in(path)
    assert found is not None
    assert (found.id, found.pod_uid) == (CONTAINER, POD)


@pytest.mark.parametrize("path", [f"/../crio-{CONTAINER}.scope", f"/../{CONTAINER}", f"/../../{CONTAINER}"])
def test_a_sibling_seen_from_a_pod_has_no_visible_pod(path: str) -> None:
    found = pod_container_in(path)
    assert found is not None
    assert (found.id, found.pod_uid) == (CONTAINER, None)


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{OTHER}/kubepods/pod{POD}/{CONTAINER}",
        f"/system.slice/docker-{OTHER}.scope/kubepods/pod{POD}/{CONTAINER}",
        f"/system.slice/any.service/kubepods/pod{POD}/{CONTAINER}",
        f"{USER}/kubepods/pod{POD}/{CONTAINER}",
        f"/kubepods/pod{POD}",
        f"/kubepods/pod{POD}/x/{CONTAINER}",
        f"/kubepods/xpod{POD}/{CONTAINER}",
        f"/docker/{CONTAINER}",
        f"/{CONTAINER}",
    ],
)
def test_what_stands_inside_something_else_is_no_pod(path: str) -> None:
    assert pod_container_in(path) is None


def test_static_pods_have_uids_without_dashes() -> None:
    found = pod_container_in(f"/kubepods/burstable/pod{'ab' * 16}/{CONTAINER}")
    assert found is not None
    assert found.pod_uid == "ab" * 16


def test_hierarchies_agree_or_nothing_is_believed() -> None:
    lines = f"2:cpu:/docker/{CONTAINER}\n1:name=systemd:/docker/{CONTAINER}\n0::/\n"
    assert container_of(parse_cgroups(lines.encode())) is not None
    for other in (f"/docker/{OTHER}", f"/docker-{CONTAINER}.scope/x"[:0] + f"/kubepods/pod{POD}/{CONTAINER}"):
        with pytest.raises(VestibuleError, match="VST2055"):
            container_of(parse_cgroups(f"{lines}3:pids:{other}\n".encode()))
    pods = f"2:cpu:/kubepods/pod{POD}/{CONTAINER}\n1:pids:/kubepods/pod{POD}/{OTHER}\n"
    with pytest.raises(VestibuleError, match="VST2055"):
        pod_container_of(parse_cgroups(pods.encode()))


@pytest.mark.parametrize(
    "data",
    [b"x", b"a:b:/c", b"1:cpu:c", b"1:cpu", b"-1::/", b"\xff::/", b"0::/a\0b", b"0::/\n\n", b"0::/\n" * 300],
)
def test_what_no_kernel_writes_is_refused(data: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST2054"):
        parse_cgroups(data)


def test_endless_groups_are_refused() -> None:
    with pytest.raises(VestibuleError, match="VST2054"):
        cgroups_of(FakeProcess(b"0::/" + b"x" * MAX_BYTES))


def test_this_process_has_groups() -> None:
    handle = ProcessHandle(os.getpid())
    assert all(each.path.startswith("/") for each in cgroups_of(handle))
    handle.close()


SEGMENT = st.one_of(
    st.text(st.characters(blacklist_characters="/\n\0"), min_size=1, max_size=20),
    st.sampled_from(
        [
            "docker",
            CONTAINER,
            OTHER,
            f"docker-{OTHER}.scope",
            f"libpod-{OTHER}.scope",
            f"pod{POD}",
            "kubepods",
            "user.slice",
            "user-1000.slice",
            "user@1000.service",
            "x.service",
            "..",
        ]
    ),
)
PATH = st.lists(SEGMENT, max_size=8).map(lambda segments: "/" + "/".join(segments))


@given(st.binary(max_size=200))
def test_any_bytes_are_groups_or_refused(data: bytes) -> None:
    try:
        parse_cgroups(data)
    except VestibuleError as error:
        assert error.code.code == "VST2054"  # noqa: PT017


@given(PATH)
def test_any_path_holds_whole_ids_or_nothing(path: str) -> None:
    for found in (container_in(path), pod_container_in(path)):
        if found is not None:
            assert found.id in (CONTAINER, OTHER)
            assert found.id in path


@given(st.sampled_from([f"/docker/{CONTAINER}", f"/system.slice/docker-{CONTAINER}.scope"]), PATH)
def test_nothing_made_inside_a_container_changes_what_it_is(container: str, below: str) -> None:
    assert container_in(container + below) == container_in(container)
    assert pod_container_in(container + below) is None


@given(PATH)
def test_nothing_made_inside_a_pod_changes_what_it_is(below: str) -> None:
    inside = f"/kubepods/pod{POD}/{CONTAINER}"
    assert pod_container_in(inside + below) == pod_container_in(inside)


@given(PATH)
def test_what_a_user_makes_is_that_users_or_nobodys(below: str) -> None:
    found = container_in(USER + below)
    assert found is None or found.owner == 1000
    assert pod_container_in(USER + below) is None
    assert container_in("/user.slice/user-1000.slice/session-1.scope" + below) is None
