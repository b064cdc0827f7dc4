"""Apps that are asked whether they are well, and instances that stop: callers leave in time, and no request fails."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.bad_input_lab import SERVICES, Platform, platform_in_a_short_place
from tests.e2e.bad_input_mesh import APP, Mesh
from tests.e2e.front_door import Program, until, vestibule

CHECKED = SERVICES["orders"] + "health: {http: /healthz, every: 1s, timeout: 1s, unhealthy: 2}\n"
SICK_APP = APP.replace(
    "        body =",
    """        if self.path == "/healthz" and (os.path.exists(f"{sick}.{os.getpid()}") or others_are_sick()):
            self.send_error(503)
            return
        body =""",
).replace(
    "class Handler",
    """sick = sys.argv[1]

def others_are_sick():
    try:
        return open(f"{sick}.but").read() != str(os.getpid())
    except FileNotFoundError:
        return False

class Handler""",
)


class CheckedPlatform(Platform):
    """Orders says how its apps are asked, and the agent where it is."""

    def start_server(self) -> None:
        (self.intent / "services" / "orders.yaml").write_text(CHECKED)
        super().start_server()

    def start_agent(self, *more: object) -> None:
        super().start_agent("--locality", "eu/a", *more)


class CheckedMesh(Mesh):
    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.app.write_text(SICK_APP)

    def callees(self, times: int = 12) -> set[int]:
        """The processes that answer web."""
        answers = [self.call() for _ in range(times)]
        assert {each.status for each in answers} == {200}, answers
        return {int(each.document["pid"]) for each in answers}

    def answers(self, pid: int) -> bool:
        return pid in self.callees()

    def instance(self, sidecar: Program) -> dict[str, Any]:
        status = vestibule("status", *self.platform.operator).envelope["data"]
        wanted = sidecar.ready()["instance"]
        return next((dict(each) for each in status["proxies"] if each["instance"] == wanted), {})

    def sick(self, who: object) -> Path:
        hold = self.hold("orders")
        return hold.with_name(f"{hold.name}.{who}")

    def another(self) -> Program:
        made = self.sidecar("orders")
        made.ready()
        return made


@pytest.fixture(scope="module")
def mesh() -> Iterator[CheckedMesh]:
    with platform_in_a_short_place(CheckedPlatform) as platform:
        mesh = CheckedMesh(platform)
        mesh.start()
        yield mesh
        mesh.end()


def test_an_app_is_called_while_it_is_well_and_status_says_so(mesh: CheckedMesh) -> None:
    first = mesh.app_of(mesh.orders)
    mesh.sick("but").write_text("")
    until(lambda: mesh.instance(mesh.orders)["health"] == "unhealthy", "the only one is sick")
    until(lambda: mesh.call().status == 503, "it is not called")
    mesh.sick("but").unlink()
    until(lambda: mesh.instance(mesh.orders)["health"] == "healthy", "it is well again")
    until(lambda: mesh.call().status == 200, "it is called again")
    known = mesh.instance(mesh.orders)
    assert (known["locality"], known["version"]) == ("eu/a", "v1")
    assert mesh.callees() == {first}


def test_who_is_new_is_called_once_it_is_well_and_who_falls_sick_is_left(mesh: CheckedMesh) -> None:
    first = mesh.app_of(mesh.orders)
    with mesh.calls_go_on():
        until(lambda: mesh.instance(mesh.orders)["health"] == "healthy", "the first one is well")
        mesh.sick("but").write_text(str(first))
        second = mesh.another()
        assert mesh.instance(second)["health"] in ("starting", "unhealthy")
        pid = mesh.app_of(second)
        assert mesh.callees() == {first}
        mesh.sick("but").unlink()
        until(lambda: mesh.callees() == {first, pid}, "the second one is called")
        mesh.sick(first).touch()
        until(lambda: mesh.callees() == {pid}, "the first one is left")
        mesh.sick(first).unlink()
        until(lambda: mesh.callees() == {first, pid}, "it is called again")
        second.stop()
    assert mesh.callees() == {first}


def test_instances_come_and_go_under_load_without_a_failed_request(mesh: CheckedMesh) -> None:
    with mesh.calls_go_on():
        until(lambda: mesh.instance(mesh.orders)["health"] == "healthy", "the first one is well")
        for _ in range(2):
            came = mesh.another()
            until(partial(mesh.answers, mesh.app_of(came)), "the new one is called")
            came.stop()
            assert "have not heard" not in mesh.platform.agent.err
        assert mesh.app_of(mesh.orders) in mesh.callees()
