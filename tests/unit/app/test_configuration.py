"""Configuration files: everything can be said in them, and everything that is wrong is told at once."""

from __future__ import annotations

import re
import typing
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from vestibule.app.agent_settings import agent_settings
from vestibule.app.configuration.files import Configuration, agent_configuration, server_configuration
from vestibule.app.configuration.meanings import AGENT, SERVER, SPIRE
from vestibule.app.configuration.sizes import parse_size
from vestibule.app.main import COMMANDS
from vestibule.app.server_settings import KeyStorage, server_settings
from vestibule.errors import SeveralError, VestibuleError
from vestibule.records import Address

BOTH = [server_configuration, agent_configuration]
FULL_SERVER = """
trust_domain: example.org
data_dir: /data
socket_path: /run/s.sock
bind_address: 127.0.0.1
bind_port: 0
health_port: off
ca_ttl: 48h
default_x509_svid_ttl: 30m
disable_jwt_svids: true
key_storage: memory
database: env:VESTIBULE_DATABASE
node_attestors: {join_token: {}, x509pop: {ca_file: /etc/ca.pem}}
drain: 9s
"""
FULL_AGENT = """
trust_domain: example.org
server: server.example.org:8081
data_dir: /data
first_trust: {bundle_file: /etc/bundle.pem}
rebootstrap: never
rebootstrap_delay: 5m
health: 127.0.0.1:9000
workload_attestors: [unix, docker]
node_attestor: x509pop=certificate=/etc/node.pem
sds: {default_svid_name: mine}
"""
PLACES = {"data_dir": Path("/d"), "socket_path": Path("/s"), "admin_socket_path": Path("/a")}


def written(directory: Path, text: str) -> Path:
    path = directory / "config.yaml"
    path.write_text(text)
    return path


def problems(configuration: Configuration, path: Path) -> list[str]:
    with pytest.raises(SeveralError) as caught:
        configuration.read(path)
    return [str(each) for each in caught.value.errors]


@pytest.mark.parametrize("configuration", BOTH)
def test_every_setting_can_be_said_in_yaml(configuration: typing.Callable[[], Configuration]) -> None:
    found = configuration()
    # A field without a meaning, or of a type without a shape, has failed above: see CONTRIBUTING, "A new setting".
    assert {each.name for each in fields(found.settings) if each.init} == {
        key.name for key in found.record.keys
    }
    named = {name for name in found.meanings if "." not in name}
    assert named == {key.name for key in found.record.keys}


@pytest.mark.parametrize(("command", "meanings"), [("server run", SERVER), ("agent run", AGENT)])
def test_every_option_that_is_named_beside_a_setting_exists(command: str, meanings: typing.Any) -> None:
    known = {option for each in COMMANDS[command].load("run").params for option in each.opts}
    assert {each.option for each in meanings.values() if each.option} <= known


def test_a_server_is_told_by_its_file(tmp_path: Path) -> None:
    found = server_settings({}, written(tmp_path, FULL_SERVER))
    assert (found.bind_port, found.health_port) == (0, None)
    assert (found.ca_ttl, found.drain) == (timedelta(hours=48), timedelta(seconds=9))
    assert (found.key_storage, found.disable_jwt_svids) == (KeyStorage.MEMORY, True)
    assert str(found.database) == "env:VESTIBULE_DATABASE"
    assert [each.name for each in found.node_attestors] == ["join_token", "x509pop"]


def test_an_agent_is_told_by_its_file_and_the_command_line_wins(tmp_path: Path) -> None:
    path = written(tmp_path, FULL_AGENT)
    told = {**PLACES, "rebootstrap_delay": timedelta(minutes=10), "server": Address.parse("other:1")}
    found = agent_settings(told, lambda option: option in ("--server", "--data-dir"), path)
    assert (str(found.server), found.data_dir) == ("other:1", Path("/d"))
    assert found.first_trust.bundle_file == Path("/etc/bundle.pem")
    assert found.rebootstrap_delay == timedelta(minutes=5)
    assert [each.name for each in found.workload_attestors] == ["unix", "docker"]
    assert (found.node_attestor.name, found.sds.default_svid_name) == ("x509pop", "mine")
    with pytest.raises(VestibuleError, match="trust_domain is not set"):
        agent_settings(PLACES, lambda _: False, None)


def test_everything_that_is_wrong_is_told_at_once_and_where(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "trust_domain: Example Org\nca_tll: 24h\nbind_port: 70000\ndrain: 5\nkey_storage: dsik\n"
        "health_port: true\nnode_attestors: 7\nplugins: {}\ndatabase: postgresql://u:hunter2@h/d\n",
    )
    found = problems(server_configuration(), path)
    assert [each.split(":")[:2] for each in found] == [[str(path), str(line)] for line in range(1, 10)]
    assert all(re.search(r":\d+: VST\d{4} ", each) for each in found)
    with pytest.raises(SeveralError) as caught:
        server_configuration().read(path)
    advice = {each.where.line: each.advice for each in caught.value.errors if each.where}
    assert "ca_ttl" in advice[2]
    assert "'disk'" in advice[5]
    assert "node_attestors" in advice[8]
    assert "hunter2" not in f"{found}{advice}"


def test_what_does_not_fit_together_is_told_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "trust_domain: example.org\ndata_dir: /d\nsocket_path: /s\nca_ttl: 1s\n")
    with pytest.raises(VestibuleError, match=rf"^{path}:4:1: VST9110 a ca_ttl under"):
        server_settings({}, path)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "a: [\n", "a: &x 1\nb: *x\n", "a: !!python/object:os.system 1\n", "\xff"]
)
def test_what_is_no_mapping_of_settings_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(VestibuleError) as caught:
        server_configuration().read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("configuration", BOTH)
def test_the_schema_describes_every_setting(configuration: typing.Callable[[], Configuration]) -> None:
    schema = configuration().schema()
    assert schema["additionalProperties"] is False
    assert all(each["description"] for each in schema["properties"].values())


def test_keys_of_spire_are_not_ours() -> None:
    for name in SPIRE:
        kind, _, key = name.partition(".")
        assert kind in ("server", "agent")
        assert key


def test_sizes_have_units() -> None:
    assert parse_size("64MiB") == 64 * 2**20
    for wrong in ("64", "64MB", "-1B", "1.5GiB"):
        with pytest.raises(VestibuleError, match="VST9110"):
            parse_size(wrong)
