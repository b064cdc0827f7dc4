"""What the mesh says of all: how changes are rolled out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.unit.intent.reading import MESH, accepted, only, read, whole_language

from vestibule.intent import Rollout


@pytest.fixture(autouse=True)
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


def test_a_rollout_has_a_first_wave_a_time_to_watch_and_a_bound_of_errors() -> None:
    mesh = accepted(read(mesh=MESH + "rollout: {first: 10%, watch: 30s, errors: 2%}\n")).mesh
    assert mesh.rollout == Rollout(first=10, watch=timedelta(seconds=30), errors=2.0)


def test_without_a_word_about_it_all_proxies_get_a_change_at_once() -> None:
    assert accepted(read()).mesh.rollout == Rollout()
    assert accepted(read(mesh=MESH + "rollout: {}\n")).mesh.rollout == Rollout()


@pytest.mark.parametrize(
    ("rollout", "code"),
    [
        ("{first: 10}", "VST0022"),
        ("{first: 0%}", "VST0025"),
        ("{watch: 30}", "VST0022"),
        ("{errors: 5.5%}", "VST0025"),
        ("{last: 10%}", "VST0020"),
    ],
)
def test_a_rollout_that_cannot_be_meant_is_refused(rollout: str, code: str) -> None:
    assert only(read(mesh=MESH + f"rollout: {rollout}\n"))[0].endswith(code)
