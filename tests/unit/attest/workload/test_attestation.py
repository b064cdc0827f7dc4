import asyncio
import os
from collections.abc import Iterator

import pytest

from vestibule.attest.workload import Process, attest_workload
from vestibule.attest.workload.codes import NOT_ATTESTED
from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.net.peer import ProcessHandle
from vestibule.spiffe import Selector


class Says:
    def __init__(self, name: str, *values: str, error: Exception | None = None) -> None:
        self.name = name
        self._found = frozenset(Selector(name, value) for value in values)
        self._error = error

    async def attest(self, process: Process) -> frozenset[Selector]:
        if self._error:
            raise self._error
        return self._found


@pytest.fixture
def process() -> Iterator[ProcessHandle]:
    handle = ProcessHandle(os.getpid())
    yield handle
    handle.close()


async def test_findings_add_up(process: ProcessHandle) -> None:
    found = await attest_workload([Says("a", "x"), Says("b"), Says("c", "y", "z")], process)
    assert {str(selector) for selector in found} == {"a:x", "c:y", "c:z"}


async def test_a_failing_attestor_takes_nothing_from_the_others(
    process: ProcessHandle, caplog: pytest.LogCaptureFixture
) -> None:
    found = await attest_workload(
        [Says("a", error=RuntimeError("the daemon is away")), Says("b", "x")], process
    )
    assert {str(selector) for selector in found} == {"b:x"}
    assert "the daemon is away" in caplog.text


async def test_when_all_fail_the_caller_may_try_again(process: ProcessHandle) -> None:
    with pytest.raises(VestibuleError) as refusal:
        await attest_workload([Says("a", error=OSError()), Says("b", error=ValueError())], process)
    assert refusal.value.code is NOT_ATTESTED


async def test_findings_about_a_process_that_ended_meanwhile_are_given_to_nobody(
    process: ProcessHandle,
) -> None:
    process.close()
    with pytest.raises(VestibuleError) as refusal:
        await attest_workload([Says("a", "x")], process)
    assert refusal.value.code is PEER_GONE


class Waits:
    name = "slow"

    async def attest(self, process: Process) -> frozenset[Selector]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_an_attestor_that_never_answers_is_named_and_not_waited_for(
    process: ProcessHandle, caplog: pytest.LogCaptureFixture
) -> None:
    found = await attest_workload([Waits(), Says("b", "x")], process, patience=0.05)
    assert {str(selector) for selector in found} == {"b:x"}
    assert "attestor slow failed" in caplog.text
    assert "VST2052" in caplog.text


async def test_an_attestor_speaks_for_its_own_type_only(
    process: ProcessHandle, caplog: pytest.LogCaptureFixture
) -> None:
    liar = Says("unix", "uid:0")
    liar.name = "labels"
    found = await attest_workload([liar, Says("b", "x")], process)
    assert {str(selector) for selector in found} == {"b:x"}
    assert "VST2053" in caplog.text


async def test_when_all_fail_each_is_named(process: ProcessHandle) -> None:
    with pytest.raises(VestibuleError, match="slow, a failed"):
        await attest_workload([Waits(), Says("a", error=OSError())], process, patience=0.05)
