"""What a server is told: from where, and what it does not take."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.intent_source import source_of
from vestibule.app.server_settings import KeyStorage, ServerSettings, server_settings
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError

GIVEN = {"trust_domain": "example.org", "data_dir": Path("/data"), "socket_path": Path("/run/s.sock")}


def settings(**more: Any) -> ServerSettings:
    return server_settings(GIVEN | more, None)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("bind_port: 1\nca_ttl: 48h\nkey_storage: memory\nhealth_port: off\n")
    found = server_settings(GIVEN | {"bind_port": "2", "ca_ttl": None}, config, {"ca_ttl": "12h"})
    assert (found.bind_port, found.ca_ttl) == (2, timedelta(hours=48))
    assert (found.key_storage, found.health_port) == (KeyStorage.MEMORY, None)
    assert found.kek == Path("/data/kek")


@pytest.mark.parametrize(
    "wrong",
    [
        {"bind_port": "70000"},
        {"bind_port": "x"},
        {"ca_ttl": "1s"},
        {"default_x509_svid_ttl": "48h"},
        {"agent_ttl": "0s"},
        {"ratelimit_attestation": -1},
        {"ratelimit_signing": "1000001"},
        {"key_storage": "tape"},
        {"trust_domain": None},
        {"environment": "prod"},
        {"admin_ids": ["spiffe://example.org"]},
        {"admin_ids": ["spiffe://example.org/spire/server"]},
        {"admin_ids": ["spiffe://partner.org/ops"]},
    ],
)
def test_a_setting_without_a_sensible_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        settings(**wrong)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "trust_domain: a\ntrust_domain: b\n", "what: 1\n"])
def test_a_file_that_is_no_mapping_of_settings_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(text)
    with pytest.raises(VestibuleError, match="VST00") as caught:
        server_settings(GIVEN, config)
    assert str(config) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        server_settings(GIVEN, tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    "issuer",
    ["id.example.org", "http://id.example.org", "https://", "https://id.example.org/", "https://a@id.example.org",
     "https://id.example.org?x=1", "https://id.example.org#x"],
)  # fmt: skip
def test_an_issuer_is_an_https_address(issuer: str) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        server_settings({**GIVEN, "jwt_issuer": issuer}, None)


def test_jwt_settings_are_read() -> None:
    found = server_settings(
        {
            **GIVEN,
            "jwt_issuer": "https://id.example.org/prod",
            "default_jwt_svid_ttl": "2m",
            "disable_jwt_svids": True,
        },
        None,
    )
    assert found.jwt_issuer == "https://id.example.org/prod"
    assert found.default_jwt_svid_ttl.total_seconds() == 120
    assert found.disable_jwt_svids
    with pytest.raises(VestibuleError, match="VST9110"):
        server_settings({**GIVEN, "disable_jwt_svids": "perhaps"}, None)


TOKEN = {"key_storage": "pkcs11", "pkcs11_module": "/m.so", "pkcs11_token": "t"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"key_storage": "pkcs11"},
        {"pkcs11_token": "t"},
        {"pkcs11_pin_fd": "3", "key_storage": "memory"},
        TOKEN,
        TOKEN | {"pkcs11_pin_file": "/pin", "pkcs11_pin_fd": "3"},
        TOKEN | {"pkcs11_pin_fd": "three"},
    ],
)
def test_a_token_is_described_whole_or_not_at_all(wrong: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        settings(**wrong)


def test_a_token_is_described_by_module_label_and_where_its_pin_is() -> None:
    found = settings(**TOKEN, pkcs11_pin_fd="3")
    assert (found.pkcs11_module, found.pkcs11_token, found.pkcs11_pin_fd) == (Path("/m.so"), "t", 3)


ROOTS = {"upstream_roots": "/roots.pem"}
FILES = {"upstream_cert": "/chain.pem", "upstream_key": "/key.pem"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"upstream": "disk"},
        {"upstream": "disk", "upstream_cert": "/chain.pem"},
        {"upstream": "ceremony"},
        {"upstream": "ceremony"} | FILES | ROOTS,
        {"upstream": "ceremony", "key_storage": "memory"} | ROOTS,
        {"upstream": "tape"},
        ROOTS,
        FILES,
    ],
)
def test_an_upstream_is_described_whole_or_not_at_all(wrong: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        settings(**wrong)


def test_an_upstream_is_described_by_its_files() -> None:
    assert settings(upstream="disk", **FILES).upstream_cert == Path("/chain.pem")
    found = settings(upstream="ceremony", upstream_environment="staging", **ROOTS)
    assert (found.upstream_roots, found.upstream_environment) == (Path("/roots.pem"), "staging")


async def test_a_server_follows_the_environment_that_it_is_told(tmp_path: Path) -> None:
    for name in ("prod", "staging"):
        mesh = tmp_path / "environments" / name / "mesh.yaml"
        mesh.parent.mkdir(parents=True)
        mesh.write_text(f"mesh: shop\ntrust_domain: example.org\nenvironment: {name}\n")
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "web.yaml").write_text("service: web\n")
    source, _ = source_of(settings(intent=tmp_path, environment="staging"), SystemClock())
    assert source is not None
    reading = await source.load()
    assert reading.intent is not None
    assert reading.intent.mesh.environment == "staging"
    unsaid, _ = source_of(settings(intent=tmp_path), SystemClock())
    assert unsaid is not None
    assert [found.code.code for found in (await unsaid.load()).problems] == ["VST0006"]
