"""The docker attestor, on an engine that speaks the real API on a real socket."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.attest.doubles import CONTAINER, OTHER, POD, FakeHttp, FakeProcess

from vestibule.attest.workload import shown
from vestibule.attest.workload.docker import DockerAttestor, DockerSettings
from vestibule.calls.http import HttpServer
from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector

DIGEST = "ab" * 32
FACTS: dict[str, Any] = {
    "Id": CONTAINER,
    "State": {"Running": True},
    "Image": f"sha256:{DIGEST}",
    "Config": {
        "Image": "shop/orders:1",
        "Labels": {"team": "orders", "com.example.a:b": "c:d", "number": 1},
        "Env": ["PASSWORD=secret", "EMPTY="],
    },
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vd-") as path:
        yield Path(path)


@pytest.fixture
async def engine(directory: Path) -> AsyncIterator[FakeHttp]:
    double = FakeHttp({f"GET /containers/{CONTAINER}/json": (200, json.dumps(FACTS).encode())})
    async with double.on_unix(directory / "docker.sock"):
        yield double


def attestor(directory: Path, **more: Any) -> DockerAttestor:
    settings = DockerSettings(
        **{
            "socket": directory / "docker.sock",
            "podman_socket": directory / "podman.sock",
            "podman_user_socket": f"{directory}/user-{{uid}}.sock",
            **more,
        }
    )
    return DockerAttestor(settings, lambda socket: HttpServer(unix=socket, seconds=0.5))


def inside(path: str = f"/docker/{CONTAINER}") -> FakeProcess:
    return FakeProcess(f"0::{path}\n".encode())


async def test_a_container_is_known_by_labels_environment_and_image(
    directory: Path, engine: FakeHttp
) -> None:
    found = await attestor(directory).attest(inside())
    assert {str(each) for each in found} == {
        "docker:label:team:orders",
        "docker:label:com.example.a:b:c:d",
        "docker:env:PASSWORD=secret",
        "docker:env:EMPTY=",
        "docker:image_id:shop/orders:1",
        f"docker:image_config_digest:sha256:{DIGEST}",
    }


async def test_the_environment_can_be_left_out_and_is_never_shown(directory: Path, engine: FakeHttp) -> None:
    found = await attestor(directory, env=False).attest(inside())
    assert not [each for each in found if each.value.startswith("env:")]
    assert not [each for each in await attestor(directory).attest(inside()) if "secret" in shown(each)]
    assert shown(Selector("docker", "env:PASSWORD=secret")) == "docker:env:PASSWORD=…"


@pytest.mark.parametrize("path", ["/", f"/kubepods/pod{POD}/cri-containerd-{CONTAINER}.scope"])
async def test_what_is_no_container_of_the_engine_is_not_asked_for(
    directory: Path, engine: FakeHttp, path: str
) -> None:
    assert await attestor(directory).attest(inside(path)) == frozenset()
    assert engine.asked == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (302, b""),
        (200, b"[]"),
        (200, b"not json"),
        (200, json.dumps(FACTS | {"Id": OTHER}).encode()),
        (200, json.dumps(FACTS | {"State": {"Running": False}}).encode()),
        (200, json.dumps(FACTS)[:-1].encode() + b', "Id": "again"}'),
    ],
)
async def test_an_engine_that_does_not_run_this_container_gives_nothing(
    directory: Path, engine: FakeHttp, status: int, body: bytes
) -> None:
    engine.answers[f"GET /containers/{CONTAINER}/json"] = (status, body)
    with pytest.raises(VestibuleError, match="VST2060"):
        await attestor(directory).attest(inside())


async def test_an_engine_that_is_away_or_silent_is_named(directory: Path, engine: FakeHttp) -> None:
    with pytest.raises(VestibuleError, match=r"VST2340 .*podman\.sock"):
        await attestor(directory).attest(inside(f"/machine.slice/libpod-{CONTAINER}.scope"))
    engine.silent = True
    with pytest.raises(VestibuleError, match=r"VST2340 .*docker\.sock does not answer"):
        await attestor(directory).attest(inside())


async def test_a_users_own_engine_is_believed_only_where_the_operator_says_so(directory: Path) -> None:
    me = os.geteuid()
    theirs = inside(f"/user.slice/user-{me}.slice/user@{me}.service/user.slice/libpod-{CONTAINER}.scope")
    double = FakeHttp({f"GET /containers/{CONTAINER}/json": (200, json.dumps(FACTS).encode())})
    async with double.on_unix(directory / f"user-{me}.sock"):
        with pytest.raises(VestibuleError, match="VST2061"):
            await attestor(directory).attest(theirs)
        assert await attestor(directory, podman_users=(me,)).attest(theirs)


async def test_a_users_engine_on_somebody_elses_socket_is_not_believed(directory: Path) -> None:
    other = os.geteuid() + 1
    theirs = inside(f"/user.slice/user-{other}.slice/user@{other}.service/libpod-{CONTAINER}.scope")
    (directory / f"user-{other}.sock").touch()
    with pytest.raises(VestibuleError, match="VST2061"):
        await attestor(directory, podman_users=(other,)).attest(theirs)
    (directory / f"user-{other}.sock").unlink()
    with pytest.raises(VestibuleError, match="VST2060"):
        await attestor(directory, podman_users=(other,)).attest(theirs)
