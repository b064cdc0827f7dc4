"""What every workload attestor promises."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.attest.doubles import CONTAINER, POD, FakeHttp, FakeProcess

from vestibule.attest.workload import attest_workload
from vestibule.attest.workload.docker import DockerAttestor, DockerSettings
from vestibule.attest.workload.k8s import K8sAttestor
from vestibule.attest.workload.ports import Process, WorkloadAttestor
from vestibule.attest.workload.supervised import SupervisedAttestor, Vouched
from vestibule.attest.workload.systemd import SystemdAttestor
from vestibule.attest.workload.unix import UnixAttestor
from vestibule.calls.http import HttpServer
from vestibule.calls.systemd import Systemd, Unit
from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.net.peer import ProcessHandle
from vestibule.spiffe import Selector


class Reading(ProcessHandle):
    """This process, in the control groups of somebody else's container."""

    cgroup = b"0::/\n"

    def read(self, name: str, limit: int = 65536) -> bytes:
        data = super().read(name, limit)
        return self.cgroup if name == "cgroup" else data


@dataclass
class Case:
    """An attestor whose sources answer; ``broken`` is one whose sources do not."""

    attestor: WorkloadAttestor
    broken: WorkloadAttestor | None
    cgroup: bytes = b"0::/\n"


FACTS = {"Id": CONTAINER, "State": {"Running": True}, "Config": {"Labels": {"a": "b"}}}
PODS = {
    "items": [
        {"metadata": {"uid": POD}, "status": {"containerStatuses": [{"containerID": f"x://{CONTAINER}"}]}}
    ]
}


async def unix(directory: Path, stack: AsyncExitStack) -> Case:
    return Case(UnixAttestor(), None)


async def supervised(directory: Path, stack: AsyncExitStack) -> Case:
    vouched = Vouched(ProcessHandle)
    me = ProcessHandle(os.getpid())
    vouched.vouch("orders", me.pid, me.start_time, "app")
    me.close()
    return Case(SupervisedAttestor(vouched), None)


async def docker(directory: Path, stack: AsyncExitStack) -> Case:
    engine = FakeHttp({f"GET /containers/{CONTAINER}/json": (200, json.dumps(FACTS).encode())})
    await stack.enter_async_context(engine.on_unix(directory / "docker.sock"))

    def attestor(name: str) -> DockerAttestor:
        return DockerAttestor(DockerSettings(socket=directory / name), lambda path: HttpServer(unix=path))

    return Case(attestor("docker.sock"), attestor("nothing"), f"0::/docker/{CONTAINER}\n".encode())


async def k8s(directory: Path, stack: AsyncExitStack) -> Case:
    kubelet = FakeHttp({"GET /pods": (200, json.dumps(PODS).encode())})
    await stack.enter_async_context(kubelet.on_unix(directory / "kubelet"))

    def attestor(name: str) -> K8sAttestor:
        return K8sAttestor(HttpServer(unix=directory / name), lambda: "")

    return Case(attestor("kubelet"), attestor("nothing"), f"0::/kubepods/pod{POD}/{CONTAINER}\n".encode())


async def systemd(directory: Path, stack: AsyncExitStack) -> Case:
    async def unit_of(pid: int) -> Unit:
        assert pid == os.getpid()
        return Unit(id="orders.service", fragment_path="/etc/systemd/system/orders.service")

    broken = SystemdAttestor(Systemd(bus=directory / "nothing").unit_of)
    return Case(SystemdAttestor(unit_of), broken, b"0::/system.slice/orders.service\n")


MAKERS: dict[str, Callable[[Path, AsyncExitStack], object]] = {
    each.__name__: each for each in (unix, supervised, systemd, docker, k8s)
}


@pytest.fixture(params=MAKERS)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    with tempfile.TemporaryDirectory(prefix="vc-") as directory:
        async with AsyncExitStack() as stack:
            made = await MAKERS[request.param](Path(directory), stack)  # type: ignore[misc]
            assert made.attestor.name == request.param
            yield made


@pytest.fixture
def process(case: Case) -> object:
    handle = Reading(os.getpid())
    handle.cgroup = case.cgroup
    yield handle
    handle.close()


async def test_its_selectors_are_of_its_own_type_and_stable(case: Case, process: Process) -> None:
    first = await case.attestor.attest(process)
    assert first
    assert {selector.type for selector in first} == {case.attestor.name}
    assert await case.attestor.attest(process) == first


async def test_its_selectors_can_be_written_in_an_entry(case: Case, process: Process) -> None:
    for selector in await case.attestor.attest(process):
        assert Selector.parse(str(selector)) == selector
        assert selector.value.strip() == selector.value
        assert selector.value.partition(":")[2]


async def test_callers_at_the_same_time_do_not_disturb_each_other(case: Case, process: Process) -> None:
    answers = await asyncio.gather(*(case.attestor.attest(process) for _ in range(20)))
    assert len(set(answers)) == 1


async def test_a_process_that_ended_is_nobody(case: Case, process: Process) -> None:
    process.close()
    with pytest.raises(VestibuleError) as refusal:
        await attest_workload([case.attestor], process)
    assert refusal.value.code.code in (PEER_GONE.code, "VST2050")


async def test_a_source_that_is_away_is_an_error_with_a_code_not_an_empty_answer(
    case: Case, process: Process
) -> None:
    """An empty answer would say "this is no container", which is another thing than not knowing."""
    if case.broken is None:
        pytest.skip("its source is the kernel or the agent itself")
    with pytest.raises(VestibuleError):
        await case.broken.attest(process)


async def test_a_process_that_means_nothing_to_it_costs_no_error(case: Case) -> None:
    if case.attestor.name not in ("docker", "k8s"):
        pytest.skip("it has something to say of every process")
    assert await case.attestor.attest(FakeProcess()) == frozenset()
