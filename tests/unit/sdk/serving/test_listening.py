"""Refusals are told once in a while, and noise is not."""

from __future__ import annotations

import ssl

import pytest

from vestibule.sdk.codes import NOT_AUTHORIZED
from vestibule.sdk.serving import listening
from vestibule.sdk.serving.listening import Refusals


def refusal(text: str = "no") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, text)
    error.__cause__ = NOT_AUTHORIZED.error(text)
    return error


def test_the_same_refusal_of_the_same_host_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for host in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        refusals.tell(host, refusal())
    refusals.tell("10.0.0.1", refusal("something else"))
    assert caplog.messages == [
        "refused 10.0.0.1: VST2404 no",
        "refused 10.0.0.2: VST2404 no",
        "refused 10.0.0.1: VST2404 something else",
    ]


def test_it_is_told_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SILENCE", 0.0)
    refusals = Refusals()
    refusals.tell("10.0.0.1", refusal())
    refusals.tell("10.0.0.1", refusal())
    assert len(caplog.messages) == 2


def test_what_the_tls_stack_refused_is_told_and_noise_is_not(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    refusals.tell("10.0.0.1", ssl.SSLCertVerificationError(1, "certificate has expired"))
    refusals.tell("10.0.0.1", ssl.SSLError(1, "wrong version number"))
    refusals.tell("10.0.0.1", ConnectionResetError("reset"))
    assert len(caplog.messages) == 1
    assert "expired" in caplog.messages[0]


def test_a_flood_of_refusals_is_not_hoarded() -> None:
    refusals = Refusals()
    for number in range(3 * listening._REMEMBERED):
        refusals.tell(f"10.0.{number // 256}.{number % 256}", refusal())
    assert len(refusals._told) == listening._REMEMBERED
