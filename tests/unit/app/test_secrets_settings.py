"""The secret manager is off unless its seal is said; what proxies are told must be an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestibule.app.platform_services import platform_services
from vestibule.app.server_settings import SealKind, ServerSettings, server_settings
from vestibule.errors import VestibuleError


def settings(**given: Any) -> ServerSettings:
    places = {"trust_domain": "example.org", "data_dir": Path("/d"), "socket_path": Path("/s/server.sock")}
    return server_settings({**places, **given}, None)


def test_by_default_there_is_none() -> None:
    assert settings().secrets_seal is SealKind.OFF
    assert platform_services(settings()) == ()


def test_with_a_seal_it_is_a_service_of_the_mesh() -> None:
    found = settings(secrets_seal="file", secrets_address="127.0.0.1", secrets_port="8300")
    (service,) = platform_services(found)
    assert (service.name, str(service.address)) == ("secrets", "127.0.0.1:8300")
    assert str(service.spiffe_id) == "spiffe://example.org/vestibule/secrets"
    assert (found.secrets_key, found.secrets_names) == (Path("/d/secrets.kek"), ("localhost",))


def test_at_every_address_proxies_are_told_one() -> None:
    found = settings(secrets_seal="file", secrets_address="0.0.0.0", secrets_advertised="10.0.0.7")
    assert str(found.secrets_place) == "10.0.0.7:8200"
    assert found.secrets_names == ()


def test_clients_with_tokens_have_a_port_only_if_it_is_said() -> None:
    assert settings(secrets_seal="file").secrets_token_place is None
    assert settings(secrets_seal="file", secrets_token_port="off").secrets_token_place is None
    assert (
        str(settings(secrets_seal="file", secrets_token_port="8201").secrets_token_place) == "127.0.0.1:8201"
    )


@pytest.mark.parametrize(
    "given",
    [
        {"secrets_seal": "wax"},
        {"secrets_seal_file": "/k"},
        {"secrets_advertised": "10.0.0.7"},
        {"secrets_seal": "shamir", "secrets_seal_file": "/k"},
        {"secrets_seal": "file", "secrets_address": "0.0.0.0"},
        {"secrets_seal": "file", "secrets_address": "vault.example.org"},
        {"secrets_seal": "file", "secrets_port": "0"},
        {"secrets_seal": "file", "secrets_port": "off"},
        {"secrets_token_port": "8201"},
        {"secrets_seal": "file", "secrets_token_port": "8200"},
        {"secrets_seal": "file", "secrets_token_port": "0"},
        {"secrets_seal": "file", "secrets_token_port": "8201", "disable_jwt_svids": True},
        {"secrets_seal": "file", "secrets_token_tls_cert": "/c", "secrets_token_tls_key": "/k"},
        {"secrets_seal": "file", "secrets_token_port": "8201", "secrets_token_tls_cert": "/c"},
        {"secrets_seal": "file", "secrets_dns_names": ["not a name"]},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError):
        settings(**given)
