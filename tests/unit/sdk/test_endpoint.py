"""Addresses of the Workload API (SPIFFE_Workload_Endpoint.md, section 4)."""

import pytest

from vestibule.errors import VestibuleError
from vestibule.net.codes import SOCKET_PATH
from vestibule.sdk import Endpoint
from vestibule.sdk.codes import MALFORMED_ENDPOINT, NO_ENDPOINT


@pytest.mark.parametrize(
    ("text", "endpoint", "again"),
    [
        ("unix:///run/agent.sock", Endpoint(path="/run/agent.sock"), "unix:///run/agent.sock"),
        ("unix:/run/agent.sock", Endpoint(path="/run/agent.sock"), "unix:///run/agent.sock"),
        ("unix:///run/a%20b.sock", Endpoint(path="/run/a b.sock"), "unix:///run/a b.sock"),
        ("tcp://127.0.0.1:8000", Endpoint(host="127.0.0.1", port=8000), "tcp://127.0.0.1:8000"),
        ("tcp://[::1]:8000", Endpoint(host="::1", port=8000), "tcp://[::1]:8000"),
    ],
)
def test_the_forms_of_the_standard_are_read(text: str, endpoint: Endpoint, again: str) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == again


@pytest.mark.parametrize(
    "text",
    [
        "/run/agent.sock",
        "unix:run/agent.sock",
        "unix://run/agent.sock",
        "unix://host/run/agent.sock",
        "unix:///run/agent.sock?x=1",
        "unix:///run/agent.sock#x",
        "unix:///run/a\nb",
        "unix:///run/%00",
        "unix:",
        "tcp://localhost:8000",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:8000/",
        "tcp://u@127.0.0.1:8000",
        "tcp://u:p@127.0.0.1:8000",
        "tcp://[::1:8000",
        "http://127.0.0.1:8000",
        "",
    ],
)
def test_every_other_form_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError) as raised:
        Endpoint.parse(text)
    assert raised.value.code is MALFORMED_ENDPOINT


def test_a_path_that_no_socket_can_have_is_refused_by_its_length() -> None:
    with pytest.raises(VestibuleError) as raised:
        Endpoint.parse("unix:///" + "a" * 107)
    assert raised.value.code is SOCKET_PATH


def test_what_is_given_wins_over_the_environment() -> None:
    environment = {"SPIFFE_ENDPOINT_SOCKET": "unix:///run/other.sock"}
    assert Endpoint.find("unix:///run/agent.sock", environment) == Endpoint(path="/run/agent.sock")
    assert Endpoint.find(None, environment) == Endpoint(path="/run/other.sock")


@pytest.mark.parametrize("environment", [{}, {"SPIFFE_ENDPOINT_SOCKET": ""}])
def test_an_unknown_endpoint_says_which_variable_to_set(environment: dict[str, str]) -> None:
    with pytest.raises(VestibuleError) as raised:
        Endpoint.find(None, environment)
    assert raised.value.code is NO_ENDPOINT
    assert "SPIFFE_ENDPOINT_SOCKET" in raised.value.advice
