"""The view shows where every part stands, also before there is much to show."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from vestibule.app.up.live import View
from vestibule.app.up.mesh import Mesh
from vestibule.app.up.sidecars import Where
from vestibule.app.up.timeline import Timeline
from vestibule.errors import VestibuleError
from vestibule.intent import load
from vestibule.net.codes import UNREACHABLE
from vestibule.processes import State
from vestibule.records import Address, Boundary
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

SHOP = Path(__file__).resolve().parents[4] / "examples" / "shop"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


def part(name: str, state: State = State.READY, restarts: int = 0) -> Any:
    return SimpleNamespace(name=name, state=state, ready=state is State.READY, restarts=restarts)


class Operator:
    def __init__(self, status: admin_pb2.ServerStatus | VestibuleError) -> None:
        self.answer = status

    async def status(self) -> admin_pb2.ServerStatus:
        if isinstance(self.answer, VestibuleError):
            raise self.answer
        return self.answer


def mesh(tmp_path: Path, *, ready: bool = True, status: Any = None) -> Any:
    intent = load(SHOP).intent
    assert intent is not None
    state = State.READY if ready else State.STARTING
    where = Where(instance_id="web-1", ingress={}, way_out=Address(host="127.0.0.1", port=15001))
    web = SimpleNamespace(service="web", kept=part("web", state, restarts=2), where=where)
    done = asyncio.Event()
    timeline = Timeline()
    if ready:
        done.set()
        timeline.reached("sidecars")
    server, agent = part("server", state), part("agent", state)
    return SimpleNamespace(
        plan=SimpleNamespace(
            intent=intent,
            identities={"web": intent.services["web"].spiffe_id},
            boundary=Boundary.TRUST,
        ),
        places=SimpleNamespace(logs=tmp_path, admin_socket=tmp_path / "agent-admin.sock"),
        access_log=tmp_path / "access.jsonl",
        timeline=timeline,
        ready=done,
        server=server,
        agent=agent,
        sidecars=[web],
        gateways=[],
        proxies=[web],
        parts=[server, agent, web.kept],
        operator=Operator(status or admin_pb2.ServerStatus()),
    )


STATUS = admin_pb2.ServerStatus(
    intent=admin_pb2.IntentStatus(
        version="abc123",
        problems=[
            admin_pb2.Problem(
                code="VST0101", message="unknown key", where="services/web.yaml:3:1", advice="write ports"
            )
        ],
    ),
    proxies=[
        admin_pb2.ProxyStatus(
            service="web",
            instance_id="web-1",
            connected=True,
            types=[admin_pb2.TypeSync(type_url=LISTENER, status="STALE")],
        )
    ],
)


async def shown(mesh: Any, *, terminal: bool) -> str:
    """What is on the screen after the first look."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=160, color_system=None)
    running = asyncio.create_task(View(cast(Mesh, mesh), console).run())
    try:
        async with asyncio.timeout(60):
            while "intent" not in screen.getvalue() and not running.done():
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return screen.getvalue()


async def test_on_a_terminal_every_part_stands_with_its_state(tmp_path: Path) -> None:
    screen = await shown(mesh(tmp_path, status=STATUS), terminal=True)
    for expected in (
        "shop",
        "abc123",
        "ready after",
        "server up",
        "agent up",
        "LDS stale",
        "127.0.0.1:15001",
    ):
        assert expected in screen
    assert "boundary: trust" in screen


async def test_an_agent_without_its_server_says_so(tmp_path: Path) -> None:
    assert "no contact with the server" in await shown(mesh(tmp_path, status=STATUS), terminal=True)


async def test_problems_of_the_intent_are_shown_with_their_fix(tmp_path: Path) -> None:
    for terminal in (True, False):
        screen = await shown(mesh(tmp_path, status=STATUS), terminal=terminal)
        assert "services/web.yaml:3:1: VST0101 unknown key" in screen
        assert "write ports" in screen


async def test_before_anything_is_ready_it_says_so(tmp_path: Path) -> None:
    screen = await shown(mesh(tmp_path, ready=False), terminal=True)
    assert "starting" in screen


async def test_elsewhere_each_line_is_printed_once(tmp_path: Path) -> None:
    screen = await shown(mesh(tmp_path, status=STATUS), terminal=False)
    lines = screen.splitlines()
    assert len(lines) == len(set(lines))
    assert "web was started again (2)" in lines
    assert "web: egress 127.0.0.1:15001" in lines


async def test_a_server_that_is_being_restarted_leaves_the_view_alone(tmp_path: Path) -> None:
    away = mesh(tmp_path, status=UNREACHABLE.error("restarting"))
    assert "shop" in await shown(away, terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
async def test_names_from_outside_cannot_draw_on_the_screen(tmp_path: Path, terminal: bool) -> None:
    status = admin_pb2.ServerStatus(
        intent=admin_pb2.IntentStatus(
            version="v", problems=[admin_pb2.Problem(code="VST0101", message="[red]x[/] intent", where="[b]")]
        )
    )
    assert "[red]x[/]" in await shown(mesh(tmp_path, status=status), terminal=terminal)
