"""Refused processes are noted, without filling the log."""

from __future__ import annotations

import pytest

from vestibule.agent.sidecars.codes import NOT_A_PROXY
from vestibule.agent.strangers import AT_MOST_EVERY, Strangers
from vestibule.errors import VestibuleError
from vestibule.testing import FakeClock


def test_each_process_is_noted_once_and_a_flood_of_them_rarely(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    strangers = Strangers(clock)

    def refuse(process: str) -> None:
        with pytest.raises(VestibuleError, match="VST2133"), strangers.noted(process):
            raise NOT_A_PROXY.error("no")

    for process in ("one", "one", "two"):
        refuse(process)
    assert [message.partition(":")[0] for message in caplog.messages] == ["refused one"]
    clock.advance(AT_MOST_EVERY)
    for process in ("one", "two"):
        refuse(process)
    assert [message.partition(":")[0] for message in caplog.messages] == ["refused one", "refused two"]


def test_who_is_not_refused_is_not_noted(caplog: pytest.LogCaptureFixture) -> None:
    with Strangers(FakeClock()).noted("one"):
        pass
    assert caplog.messages == []
