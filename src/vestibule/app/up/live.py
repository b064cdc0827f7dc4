"""What ``vestibule up`` shows while it runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vestibule.app.up.kept import Kept
from vestibule.app.up.mesh import Mesh
from vestibule.app.up.sidecars import SidecarPart
from vestibule.app.up.traffic import Traffic
from vestibule.cli.check import fetch_agent_status
from vestibule.cli.status import countdown, document, sync_words
from vestibule.errors import VestibuleError
from vestibule.processes import State
from vestibule.records import Boundary

EVERY: Final = 0.5
VERDICTS: Final = ("allowed", "denied", "refused", "failed")
NOTES: Final = {
    Boundary.TRUST: "trust (development; any process of this machine can use the proxies' local ports)",
    Boundary.UNIX: "unix (private sockets between apps and proxies)",
    Boundary.GUARD: "guard (other users of this machine cannot use the proxies' local ports)",
}


class View:
    """Looks at the mesh twice a second and shows what there is to see."""

    def __init__(self, mesh: Mesh, console: Console) -> None:
        self._mesh = mesh
        self._console = console
        names = {str(each.spiffe_id): name for name, each in mesh.plan.intent.services.items()}
        self._traffic = Traffic(mesh.access_log, names)
        self._status: Mapping[str, Any] | None = None
        self._in_contact = False

    async def run(self) -> None:
        """Show until cancelled."""
        if self._console.is_terminal:
            await self._draw()
        else:
            await self._tell()

    async def _draw(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while True:
                await self._look()
                live.update(self._picture(), refresh=True)
                await asyncio.sleep(EVERY)

    async def _tell(self) -> None:
        said: set[str] = set()
        while True:
            await self._look()
            for line in self._lines():
                if line not in said:
                    said.add(line)
                    self._console.print(escape(line))
            await asyncio.sleep(EVERY)

    async def _look(self) -> None:
        if self._mesh.server.ready:
            # While it is being restarted, what was last known stays on show.
            with contextlib.suppress(VestibuleError):
                self._status = document(await self._mesh.operator.status())
        self._in_contact = await self._agent_in_contact()
        await asyncio.to_thread(self._traffic.look)

    async def _agent_in_contact(self) -> bool:
        """Whether the agent hears from the server; its own word, since the server may be the one that is away."""
        if not self._mesh.agent.ready:
            return False
        try:
            return (await fetch_agent_status(self._mesh.places.admin_socket)).server_connected
        except VestibuleError:
            return False

    # ----------------------------------------------------------------------------- on a terminal

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [self._head(), Text(), self._services()]
        if self._traffic.edges:
            parts += [Text(), self._calls()]
        parts += [*self._problems(), Text(), self._foot()]
        return Group(*parts)

    def _head(self) -> Text:
        plan, mesh = self._mesh.plan, self._mesh
        version = self._status["intent"]["version"] if self._status else plan.intent.version
        head = Text.assemble(
            (plan.intent.mesh.name, "bold"), f"  {plan.intent.mesh.trust_domain}  intent {version}  "
        )
        if "sidecars" in mesh.timeline.milestones:
            head.append(f"ready after {mesh.timeline.milestones['sidecars']:.1f} s", "green")
        else:
            head.append("starting …", "yellow")
        for part in (mesh.server, mesh.agent):
            head.append(f"  {part.name} ")
            head.append(state_words(part), _style(part))
        if mesh.agent.ready and not self._in_contact:
            head.append(", serving from what it has: no contact with the server", "yellow")
        return head

    def _services(self) -> Table:
        proxies = self._proxies()
        table = Table(box=None, header_style="dim", pad_edge=False)
        for heading in ("SERVICE", "STATE", "IDENTITY", "CERT", "SYNC", "EGRESS", "RESTARTS"):
            table.add_column(heading, no_wrap=heading != "IDENTITY")
        identities = self._mesh.plan.identities
        for each in self._mesh.proxies:
            proxy = proxies.get(each.kept.name, {})
            left = proxy.get("svid_expires_at") and proxy["svid_expires_at"] - time.time()
            table.add_row(
                f"[bold]{escape(each.kept.name)}[/]",
                Text(state_words(each.kept), _style(each.kept)),
                escape(str(identities[each.service])),
                countdown(left) if proxy else "",
                escape(sync_words(proxy["sync"], proxy["connected"])) if proxy else "",
                _place(each) if each.kept.ready else "",
                str(each.kept.restarts or ""),
            )
        return table

    def _calls(self) -> Table:
        table = Table(box=None, header_style="dim", pad_edge=False)
        table.add_column("CALLS")
        for verdict in VERDICTS:
            table.add_column(verdict.upper(), justify="right")
        edges = self._traffic.edges
        pairs = sorted({(edge.source, edge.destination) for edge in edges})
        for source, destination in pairs:
            counts = {
                edge.verdict: count
                for edge, count in edges.items()
                if (edge.source, edge.destination) == (source, destination)
            }
            table.add_row(
                f"{escape(source)} → {escape(destination)}",
                *(str(counts.get(verdict, "")) for verdict in VERDICTS),
            )
        return table

    def _problems(self) -> Iterator[RenderableType]:
        for problem in self._status["intent"]["problems"] if self._status else ():
            yield Text(f"✗ {problem['where']}: {problem['code']} {problem['message']}", "red")
            yield Text(f"  fix: {problem['advice']}", "dim")

    def _foot(self) -> Text:
        return Text(
            f"boundary: {NOTES[self._mesh.plan.boundary]}\nlogs: {self._mesh.places.logs}   Ctrl-C ends it",
            "dim",
        )

    def _proxies(self) -> dict[str, Mapping[str, Any]]:
        """What the server says of each sidecar's instance."""
        known = {each["instance"]: each for each in self._status["proxies"]} if self._status else {}
        return {
            each.kept.name: known[each.where.instance_id]
            for each in self._mesh.proxies
            if each.kept.ready and each.where.instance_id in known
        }

    # -------------------------------------------------------------------------------- elsewhere

    def _lines(self) -> Iterator[str]:
        """Everything worth a line so far; each is printed once."""
        for name, seconds in self._mesh.timeline.milestones.items():
            yield f"{name} after {seconds:.2f} s"
        for part in self._mesh.parts:
            if part.restarts:
                yield f"{part.name} was started again ({part.restarts})"
        if self._mesh.ready.is_set():
            yield f"boundary: {NOTES[self._mesh.plan.boundary]}"
            for each in self._mesh.sidecars:
                if each.kept.ready:
                    yield f"{each.kept.name}: egress {each.where.egress}"
            for each in self._mesh.gateways:
                if each.kept.ready:
                    yield f"{each.kept.name}: gateway at {_place(each)}"
        for problem in self._status["intent"]["problems"] if self._status else ():
            yield f"✗ {problem['where']}: {problem['code']} {problem['message']} (fix: {problem['advice']})"
        if self._status:
            yield f"intent {self._status['intent']['version']} in force"


def state_words(part: Kept) -> str:
    """Where a part stands, for people."""
    return "up" if part.state is State.READY else part.state.value


def _place(part: SidecarPart) -> str:
    """An app's way out, or where a gateway takes requests."""
    where = part.where
    return str(where.way_out) if where.way_out is not None else ", ".join(map(str, where.ingress.values()))


def _style(part: Kept) -> str:
    return "green" if part.state is State.READY else "yellow"
