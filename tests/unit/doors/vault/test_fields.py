"""Fields of requests: what clients of Vault send is understood, anything else is refused by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.errors import VestibuleError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (90, timedelta(seconds=90)),
        ("90", timedelta(seconds=90)),
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("2d", timedelta(days=2)),
        (0, timedelta()),
    ],
)
def test_a_duration_is_seconds_or_has_units(said: object, meant: timedelta) -> None:
    assert fields.duration({"ttl": said}, "ttl") == meant


@pytest.mark.parametrize(
    "said", [-1, "-5s", "1y", "1h 30m", "1h30", "h", True, 1.5, [], "9" * 30, "٣s", "100000d"]
)
def test_a_duration_that_makes_no_sense_is_refused_by_name(said: object) -> None:
    with pytest.raises(VestibuleError, match="ttl") as refused:
        fields.duration({"ttl": said}, "ttl")
    assert refused.value.code is VAULT_FIELD


def test_what_is_not_said_is_left_open() -> None:
    assert fields.duration({}, "ttl") is None
    assert fields.duration({"ttl": ""}, "ttl") is None
    assert fields.number({}, "cas") is None
    assert fields.switch({}, "derived") is None
    assert fields.items({}, "batch_input", 3) is None


@pytest.mark.parametrize(("said", "meant"), [(3, 3), ("3", 3), (0, 0)])
def test_a_number_may_be_text(said: object, meant: int) -> None:
    assert fields.number({"cas": said}, "cas") == meant


@pytest.mark.parametrize("said", [-1, "-1", 1.0, True, "x", "³", {}, 10**20])
def test_what_is_no_whole_number_is_refused(said: object) -> None:
    with pytest.raises(VestibuleError, match="cas"):
        fields.number({"cas": said}, "cas")


@pytest.mark.parametrize(("said", "meant"), [(True, True), ("false", False), ("True", True)])
def test_a_switch_may_be_text(said: object, meant: bool) -> None:
    assert fields.switch({"derived": said}, "derived") is meant


@pytest.mark.parametrize("said", [1, "yes", []])
def test_what_is_neither_true_nor_false_is_refused(said: object) -> None:
    with pytest.raises(VestibuleError, match="derived"):
        fields.switch({"derived": said}, "derived")


@pytest.mark.parametrize("said", ["x", [1], {}, [{}, {}, {}, {}]])
def test_a_batch_is_a_list_of_objects_and_bounded(said: object) -> None:
    with pytest.raises(VestibuleError, match="batch_input"):
        fields.items({"batch_input": said}, "batch_input", 3)


def test_text_is_text() -> None:
    assert fields.text({"type": "ed25519"}, "type") == "ed25519"
    assert fields.text({}, "type", "aes256-gcm96") == "aes256-gcm96"
    with pytest.raises(VestibuleError, match="type"):
        fields.text({"type": 3}, "type")
