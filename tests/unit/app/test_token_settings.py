"""The token service is off unless it is said; what proxies and clients are told must hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.app.test_secrets_settings import settings

from vestibule.app.platform_services import platform_services
from vestibule.app.token_settings import TokenSettings
from vestibule.errors import VestibuleError


def said(**given: Any) -> TokenSettings:
    found = settings(secrets_seal="file", tokens=True, **given).token_service
    assert found is not None
    return found


def test_by_default_there_is_none() -> None:
    assert settings(secrets_seal="file").token_service is None
    assert [each.name for each in platform_services(settings(secrets_seal="file"))] == ["secrets"]


def test_it_is_a_service_of_the_mesh_under_a_name_of_the_trust_domain() -> None:
    found = settings(secrets_seal="file", tokens=True)
    _, service = platform_services(found)
    assert (service.name, str(service.address)) == ("tokens", "127.0.0.1:8300")
    assert str(service.spiffe_id) == "spiffe://example.org/vestibule/tokens"
    assert said().issuer == "https://tokens.example.org"
    assert said().names == ("tokens.example.org", "localhost")


def test_what_is_said_holds() -> None:
    found = said(
        tokens_issuer="https://sts.example.org:8443",
        tokens_address="0.0.0.0",
        tokens_advertised="10.0.0.7",
        tokens_open_port="8301",
        tokens_dns_names=["sts.internal"],
        tokens_key_life="2h",
        tokens_key_publication="1h",
        experimental_transaction_tokens=True,
    )
    assert (str(found.place), str(found.open_listen)) == ("10.0.0.7:8300", "0.0.0.0:8301")
    assert found.names == ("sts.internal", "sts.example.org")
    assert (found.key_life, found.key_publication) == (timedelta(hours=2), timedelta(hours=1))
    assert found.transactions


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": True},
        {"tokens_issuer": "https://sts.example.org"},
        {"tokens_open_port": "8301"},
        {"experimental_transaction_tokens": True},
        *(
            {"secrets_seal": "file", "tokens": True, **each}
            for each in (
                {"tokens_issuer": "http://sts.example.org"},
                {"tokens_issuer": "https://sts.example.org/"},
                {"tokens_issuer": "https://sts.example.org/path"},
                {"tokens_issuer": "https://user@sts.example.org"},
                {"tokens_issuer": "https://STS.example.org"},
                {"tokens_issuer": "sts.example.org"},
                {"tokens_address": "0.0.0.0"},
                {"tokens_address": "sts.example.org"},
                {"tokens_port": "0"},
                {"tokens_port": "off"},
                {"tokens_port": "8200"},
                {"tokens_open_port": "8300"},
                {"tokens_open_port": "0"},
                {"secrets_token_port": "8301", "tokens_open_port": "8301"},
                {"tokens_open_tls_cert": "/c", "tokens_open_tls_key": "/k"},
                {"tokens_open_port": "8301", "tokens_open_tls_cert": "/c"},
                {"tokens_dns_names": ["not a name"]},
                {"tokens_key_life": "59m"},
                {"tokens_key_publication": "9s"},
                {"tokens_key_life": "2h", "tokens_key_publication": "61m"},
            )
        ),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError):
        settings(**given)
