"""How databases are reached for which credentials are made."""

from __future__ import annotations

import os

import pytest

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.addresses import address_of
from vestibule.secrets.dynamic.records import Database

URL = "postgresql://{{username}}:{{password}}@db.example.org/shop"


def parameters(url: str, password: str = "p") -> dict[str, object]:
    return address_of(Database(connection_url=url, username="root", password=password), password).parameters


def test_user_and_password_are_put_in_their_places() -> None:
    found = parameters(URL, "p@/s")
    assert (found["user"], found["password"], found["host"]) == ("root", "p@/s", "db.example.org")


@pytest.mark.parametrize(
    "more", ["service=x", "passfile=/root/.pgpass", "sslcert=/c&sslkey=/server.key", "sslkeylogfile=/x"]
)
def test_what_the_server_is_known_by_elsewhere_is_not_lent_to_who_configures_a_database(more: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        parameters(f"{URL}?{more}")
    assert refused.value.code.code == "VST5410"


def test_without_a_password_none_of_the_servers_own_is_used() -> None:
    found = parameters("host=db.example.org dbname=shop user=root")
    assert (found["password"], found["passfile"], found["sslcertmode"]) == ("", os.devnull, "disable")


def test_over_a_unix_socket_the_servers_own_user_is_nobody() -> None:
    found = parameters("host=/var/run/postgresql dbname=shop user=postgres")
    assert found["require_auth"] == "password,md5,scram-sha-256"
    assert "require_auth" not in parameters(URL)
