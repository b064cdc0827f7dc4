"""Which hosts are outside, and the line that each call to them leaves."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk.codes import NO_SVID
from vestibule.sdk.outside import Outside, logged


class Nobody:
    """A source without an identity."""

    @property
    def svid(self) -> Any:
        raise NO_SVID.error("there is none")


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.stripe.com", None),
        ("API.Stripe.com.", 443),
        ("10.0.0.1", 8443),
        ("a.example.com", None),
        ("a.b.example.com", 443),
        ("[2001:db8::1]", None),
        ("2001:db8::2", 8443),
    ],
)
def test_what_is_named_is_outside(host: str, port: int | None) -> None:
    named = ["api.stripe.com", "10.0.0.1:8443", "*.example.com", "2001:db8::1", "[2001:db8::2]:8443"]
    assert Outside.of(named).has(host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.stripe.com", 8443),
        ("stripe.com", None),
        ("evil-api.stripe.com", None),
        ("api.stripe.com.evil.org", None),
        ("example.com", None),
        ("aexample.com", None),
        ("10.0.0.1", None),
        ("", None),
    ],
)
def test_nothing_else_is(host: str, port: int | None) -> None:
    assert not Outside.of(["api.stripe.com", "10.0.0.1:8443", "*.example.com"]).has(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "https://api.stripe.com", "a.com/x", "a.com:0", "a.com:x", "a*.com", "u@a.com", "a b"],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST2432"):
        Outside.of([text])


def test_one_text_in_the_place_of_a_list_is_a_mistake() -> None:
    with pytest.raises(VestibuleError, match="VST2432"):
        Outside.of("api.stripe.com")


def test_a_line_has_neither_query_nor_line_breaks_and_a_call_without_an_identity_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vestibule.sdk.outside")
    source: Any = Nobody()
    with logged(source, "api.stripe.com", "POST", "/v1\n/charges?card=4242") as call:
        call.status = 402
    with pytest.raises(KeyError), logged(source, "api.stripe.com", "GET", "/"):
        raise KeyError("secret")
    first, second = (each.message for each in caplog.records)
    assert "4242" not in first
    assert "\n" not in first
    assert json.loads(first)["caller"] is None
    assert json.loads(first)["status"] == 402
    assert json.loads(second)["failure"] == "KeyError"
    assert "secret" not in second
