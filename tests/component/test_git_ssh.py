"""A private repository over SSH: OpenSSH's own server, asked with a key that stays in its file."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.component.git_lab import MESH, Repository, intent_repository, needs, ssh_key
from tests.ports import free_port

from vestibule.calls.git import Access, Mirror, Place, Ref
from vestibule.clock import SystemClock
from vestibule.mesh import Following, GitSource


class Host:
    """An SSH server that serves one repository to one key, and nothing else to anybody."""

    def __init__(self, directory: Path, program: str, repository: Repository) -> None:
        self.key, self.stranger = ssh_key(directory, "ann"), ssh_key(directory, "eve")
        host_key = ssh_key(directory, "host")
        self.port = free_port()
        served = directory / "serve"
        # What the client asks for is not looked at: this is all that there is.
        served.write_text(
            "#!/bin/sh\nexport GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n"
            f"exec git upload-pack {repository.path}\n"
        )
        served.chmod(0o755)
        authorized = directory / "authorized_keys"
        authorized.write_text(f'restrict,command="{served}" {self.key.with_suffix(".pub").read_text()}')
        configuration = directory / "sshd_config"
        configuration.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {host_key}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {authorized}\nStrictModes no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        self.known_hosts = directory / "known_hosts"
        public = host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        self.log = directory / "sshd.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "-D", "-e", "-f", str(configuration)], stderr=log)
        _until_listening(self.port, self.process, self.log)
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}/intent"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    needs("git")
    return intent_repository(tmp_path / "repository")


@pytest.fixture
def host(tmp_path: Path, repository: Repository) -> Iterator[Host]:
    needs("ssh")
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("sshd is not installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself in, if it may
    # Whoever logs in has to reach what is served.
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    host = Host(tmp_path, program, repository)
    yield host
    host.stop()


def source_of(host: Host, data: Path, **access: Path) -> GitSource:
    given = {"ssh_key": host.key, "known_hosts": host.known_hosts, **access}
    mirror = Mirror(
        data, Place.parse(host.url), Access(**given), max_size=2**30, environment=dict(os.environ)
    )
    following = Following(ref=Ref.parse("main"), poll=timedelta(seconds=60))
    return GitSource(mirror, following, SystemClock())


async def test_a_repository_is_followed_over_ssh(host: Host, repository: Repository, tmp_path: Path) -> None:
    source = source_of(host, tmp_path / "data")
    reading = await source.load()
    assert reading.intent is not None, [str(each) for each in reading.problems]
    assert sorted(reading.intent.services) == ["web"]
    newer = repository.commit({"mesh.yaml": MESH.replace("shop", "store")}, "renamed")
    reading = await source_of(host, tmp_path / "elsewhere").load()
    assert reading.intent is not None
    assert (reading.intent.mesh.name, reading.head) == ("store", newer)


async def test_a_key_that_the_host_does_not_know_gets_nothing(host: Host, tmp_path: Path) -> None:
    reading = await source_of(host, tmp_path / "data", ssh_key=host.stranger).load()
    assert reading.intent is None
    assert [each.code.code for each in reading.problems] == ["VST3228"], reading.problems


async def test_a_host_that_shows_another_key_is_told_nothing(host: Host, tmp_path: Path) -> None:
    other = tmp_path / "other_hosts"
    public = host.stranger.with_suffix(".pub").read_text()
    other.write_text(f"[127.0.0.1]:{host.port} {public}")
    empty = tmp_path / "no_hosts"
    empty.touch()
    for number, known in enumerate((other, empty)):
        reading = await source_of(host, tmp_path / f"data{number}", known_hosts=known).load()
        assert reading.intent is None
        assert [each.code.code for each in reading.problems] == ["VST3228"], reading.problems
    assert "Accepted publickey" not in host.log.read_text()


def _until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(log.read_text())
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")
