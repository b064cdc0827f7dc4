"""What ``vestibule why`` says: one verdict, then what it rests on, then what to do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from rich.markup import escape

from vestibule.cli.output import console, sentence
from vestibule.cli.server_calls import instant
from vestibule.cli.status import countdown
from vestibule.errors import VestibuleError
from vestibule.spiffe import SpiffeId

NEARLY: Final = 3
"""So many entries that nearly fit are shown to people; programs get all."""
FINE: Final = "[green]✓[/]"
WRONG: Final = "[red]✗[/]"
NOTE: Final = "[yellow]![/]"


@dataclass(slots=True)
class Report:
    """What was asked, what was answered, and whom nobody could ask."""

    pid: int | None
    spiffe_id: str
    selectors: list[str]
    agent_id: str
    process: Any = None
    identity: Any = None
    errors: list[VestibuleError] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)

    def unasked(self, who: str, error: VestibuleError) -> None:
        """Note who could not be asked, and why."""
        self.missed[who] = str(error)
        self.errors.append(error)

    @property
    def served(self) -> list[Any]:
        """The entries whose SVID the process gets now."""
        candidates = self.process.candidates if self.process else ()
        found = [each for each in candidates if each.matches and each.svid.served]
        return [each for each in found if not self.spiffe_id or each.entry.spiffe_id == self.spiffe_id]

    @property
    def is_issued(self) -> bool:
        """Whether what was asked about has an identity now, as far as anybody who answered knows."""
        if self.process is not None:
            return bool(self.served)
        found = self.identity
        if found is None:
            return False
        if self.selectors or self.agent_id:
            return any(
                each.reaches and not each.reasons and (each.matches or not self.selectors)
                for each in found.entries
            )
        return any(each.issued_until for each in found.agents) or any(
            each.agents and not each.reasons for each in found.entries
        )

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.process is not None:
            return _process_verdict(self)
        if self.identity is None:
            return "nobody could be asked"
        return _identity_verdict(self)

    @property
    def document(self) -> dict[str, Any]:
        """The whole answer for programs (``vestibule.why/v1``)."""
        return {
            "verdict": self.verdict,
            "issued": self.is_issued if self.process or self.identity else None,
            "asked": {
                "pid": self.pid,
                "spiffe_id": self.spiffe_id or None,
                "selectors": self.selectors,
                "agent_id": self.agent_id or None,
            },
            "process": None if self.process is None else _plain(self.process),
            "server": None if self.identity is None else _plain(self.identity),
            "not_asked": self.missed,
            "next": list(advice(self)),
        }


def _plain(message: Any) -> Any:
    """A message as JSON: names as in the protocol, instants as text, numbers as numbers."""
    found = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _readable(found)


_INSTANTS: Final = frozenset(
    [
        "expires_at",
        "svid_expires_at",
        "seen_at",
        "not_before",
        "not_after",
        "renew_at",
        "refused_until",
        "issued_until",
    ]
)


def _readable(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _readable(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_readable(each) for each in value]
    if name in _INSTANTS:
        return instant(int(value))
    return int(value) if name == "revision" else value


def _process_verdict(report: Report) -> str:
    who = f"process {report.pid}"
    served, process = report.served, report.process
    if served:
        names = ", ".join(dict.fromkeys(each.entry.spiffe_id for each in served))
        return f"{who} is {names}"
    wanted = f" the identity {report.spiffe_id}" if report.spiffe_id else " an identity"
    if not process.agent.ready:
        return f"{who} has not{wanted} yet: this agent has not learned from its server who is what"
    fitting = [
        each
        for each in process.candidates
        if each.matches and (not report.spiffe_id or each.entry.spiffe_id == report.spiffe_id)
    ]
    if fitting:
        return f"{who} fits an entry, but nothing is served: {_why_not_served(fitting[0])}"
    if process.attestors and all(each.error for each in process.attestors):
        return f"{who} has not{wanted}: no attestor could examine it"
    return f"{who} has not{wanted}: no entry of this agent fits it"


def _why_not_served(candidate: Any) -> str:
    if candidate.reasons:
        return str(candidate.reasons[0])
    if not candidate.HasField("svid"):
        return "no certificate has been issued for it yet"
    if candidate.svid.refused_until:
        return "the server refused a certificate for it"
    return "its certificate is not valid now"


def _identity_verdict(report: Report) -> str:
    found, name = report.identity, report.spiffe_id
    what = name or "a workload with these selectors"
    if not found.entries:
        return f"{what}: no entry gives " + ("this identity" if name else "it an identity")
    if report.is_issued:
        agents = len(found.agents) + found.agents_left_out
        held = sum(1 for each in found.agents if each.issued_until)
        if report.agent_id or report.selectors:
            ids = dict.fromkeys(
                each.entry.spiffe_id
                for each in found.entries
                if each.reaches and (each.matches or not report.selectors)
            )
            return f"{what} is given: {', '.join(ids)}"
        return (
            f"{what} is given to {_count(agents, 'agent')}; {held} of them got certificates from this server"
        )
    if report.selectors and not any(each.matches for each in found.entries):
        return f"{what}: no entry fits the selectors"
    return f"{what}: an entry gives it, but no agent gets that entry"


# ------------------------------------------------------------------------------------------- for people


def show(report: Report) -> None:
    """The report as a person reads it, top down."""
    sentence(console, FINE if report.is_issued else WRONG, f"[bold]{escape(report.verdict)}[/]")
    if report.process is not None:
        _show_process(report.process)
    if report.identity is not None:
        _show_identity(report)
    for who, why in report.missed.items():
        console.print()
        sentence(console, NOTE, f"the {who} could not be asked: {escape(why)}")
    steps = list(advice(report))
    if steps:
        console.print("\n[bold]what to do[/]")
        for step in steps:
            sentence(console, "  [dim]→[/]", escape(step))


def _show_process(found: Any) -> None:
    process, agent = found.process, found.agent
    console.print(
        f"\n[bold]process {process.pid}[/]  uid {process.uid}, gid {process.gid}, {escape(process.program)}"
    )
    for attestor in found.attestors:
        if attestor.error:
            sentence(console, f"  {WRONG}", f"{attestor.name} failed: {escape(attestor.error)}")
        elif not attestor.selectors:
            sentence(console, "  [dim]·[/]", f"{attestor.name}: found nothing")
        else:
            sentence(console, f"  {FINE}", escape(", ".join(attestor.selectors)))
    console.print(f"\n[bold]agent[/]  {escape(agent.spiffe_id or 'has not joined')}")
    state = (
        "connected to its server"
        if agent.connected
        else f"not connected to its server{_since(agent.seen_at)}"
    )
    sentence(
        console,
        f"  {FINE if agent.connected else NOTE}",
        f"{state}; {_count(agent.entries, 'entry', 'entries')}",
    )
    if agent.problem:
        sentence(console, f"  {NOTE}", escape(agent.problem))
    fitting = [each for each in found.candidates if each.matches]
    others = [each for each in found.candidates if not each.matches][:NEARLY]
    for candidate in fitting:
        _show_fitting(candidate)
    if others and not fitting:
        console.print("\n[bold]entries that nearly fit[/]")
    for candidate in others if not fitting else ():
        _show_missing(candidate.entry, candidate.missing, candidate.reasons)
    for template in found.templates:
        _show_template(template)


def _show_fitting(candidate: Any) -> None:
    entry = candidate.entry
    default = " [dim](the default)[/]" if candidate.is_default else ""
    console.print(f"\n[bold]{escape(entry.spiffe_id)}[/]{default}")
    sentence(console, "  [dim]entry[/]", f"{entry.id}: {escape(', '.join(entry.selectors))}")
    for reason in candidate.reasons:
        sentence(console, f"  {WRONG}", escape(reason))
    if not candidate.HasField("svid"):
        sentence(console, f"  {NOTE}", "no certificate is held yet")
        return
    svid = candidate.svid
    now = time.time()
    left = f"valid for {countdown(svid.not_after - now)}" if svid.not_after > now else "EXPIRED"
    renewal = f"renewed in {countdown(svid.renew_at - now)}" if svid.renew_at > now else "to be renewed now"
    sentence(
        console,
        f"  {FINE if svid.served else WRONG}",
        f"certificate {svid.serial}: {left}, {renewal}, signed by {svid.authority_id or 'unknown'}"
        + (", taken up from disk" if svid.from_disk else ""),
    )
    ttl = f"{entry.x509_svid_ttl} s" if entry.x509_svid_ttl else "the server's default"
    sentence(
        console,
        "  [dim]ttl[/]",
        ttl + (f", entry until {instant(entry.expires_at)}" if entry.expires_at else ""),
    )
    if svid.refused_until:
        sentence(
            console,
            f"  {NOTE}",
            f"the server refused a new one; asked again at {instant(svid.refused_until)}",
        )


def _show_missing(entry: Any, missing: Iterable[Any], reasons: Iterable[str]) -> None:
    name = _entry_name(entry)
    console.print(f"  {escape(name)} [dim](entry {entry.id}, under {escape(entry.parent_id)})[/]")
    for each in missing:
        has = f"the process has {', '.join(each.found)}" if each.found else "the process has none of its kind"
        sentence(console, f"    {WRONG}", escape(f"wants {each.expected}; {has}"))
    for reason in reasons:
        sentence(console, f"    {NOTE}", escape(reason))


def _show_template(template: Any) -> None:
    if template.matches:
        return
    console.print(f"\n[bold]template {escape(template.path_template)}[/] [dim](entry {template.entry_id})[/]")
    for each in template.missing:
        has = f"the process has {', '.join(each.found)}" if each.found else "the process has none of its kind"
        sentence(console, f"  {WRONG}", escape(f"wants {each.expected}; {has}"))
    if template.problem:
        sentence(console, f"  {WRONG}", escape(template.problem))


def _show_identity(report: Report) -> None:
    found = report.identity
    entries = [each for each in found.entries if _is_news(report, each)]
    if entries:
        console.print("\n[bold]entries on the server[/]")
    for given in entries:
        _show_given(given, asked=bool(report.selectors))
    if found.left_out:
        console.print(f"  [dim]and {found.left_out} more[/]")
    if report.process is None and found.agents:
        console.print("\n[bold]agents[/]")
        for node in found.agents:
            _show_node(node)
        if found.agents_left_out:
            console.print(f"  [dim]and {found.agents_left_out} more[/]")
    for note in found.notes:
        sentence(console, f"  {NOTE}", escape(note))
    if report.process is None and found.authority.id:
        left = countdown(found.authority.not_after - time.time())
        console.print(f"\n[bold]authority[/]  {found.authority.id}, valid for {left}")


def _is_news(report: Report, given: Any) -> bool:
    """Beside a process only what its agent did not tell already: entries that fit and do not get here."""
    if report.process is None:
        return True
    if report.spiffe_id:
        return True
    return bool(given.matches and not given.reaches)


def _show_given(given: Any, *, asked: bool) -> None:
    entry = given.entry
    mark = FINE if given.reaches and not given.reasons and (given.matches or not asked) else WRONG
    sentence(console, f"  {mark}", f"{escape(_entry_name(entry))} [dim](entry {entry.id})[/]")
    sentence(console, "    [dim]for[/]", escape(", ".join(entry.selectors)))
    for each in given.missing:
        has = f"found {', '.join(each.found)}" if each.found else "nothing of its kind was found"
        sentence(console, f"    {WRONG}", escape(f"wants {each.expected}; {has}"))
    for step in given.chain:
        mark = WRONG if step.broken else "[dim]↑[/]"
        by = f" [dim](entry {step.entry_id})[/]" if step.entry_id else ""
        sentence(console, f"    {mark}", f"parent {escape(step.spiffe_id)} {escape(step.what)}{by}")
    for reason in given.reasons:
        sentence(console, f"    {WRONG}", escape(reason))


def _show_node(node: Any) -> None:
    state = "banned" if node.banned else "connected" if node.connected else "not connected"
    held = (
        f"got a certificate, valid for {countdown(node.issued_until - time.time())}"
        if node.issued_until
        else "has got no certificate from this server process"
    )
    mark = FINE if node.issued_until and not node.banned else NOTE
    sentence(console, f"  {mark}", f"{escape(node.spiffe_id)}: {state}, {held}")


# -------------------------------------------------------------------------------------------- next steps


def advice(report: Report) -> Iterator[str]:
    """What to do about it, most useful first."""
    if report.is_issued:
        if report.process is not None and len({each.entry.spiffe_id for each in report.served}) > 1:
            yield (
                "The process fits several entries. Clients that ask for one identity get the first; make the selectors "
                "differ, or give the entries hints, if that is not meant."
            )
        return
    if "agent" in report.missed:
        yield "Run this on the process's machine as the agent's user or root, or name the socket with --admin-socket."
    if report.process is not None:
        yield from _process_advice(report)
    elif report.identity is not None:
        yield from _identity_advice(report)


def _process_advice(report: Report) -> Iterator[str]:
    process = report.process
    if any(each.error for each in process.attestors):
        yield "An attestor failed: entries that want its selectors cannot fit before it works again."
    fitting = [each for each in process.candidates if each.matches]
    if not fitting and process.candidates:
        near = process.candidates[0]
        flags = " ".join(f"--selector '{each}'" for each in _suggested(near, process.selectors))
        if flags:
            yield f"If entry {near.entry.id} was meant: vestibule entry update {near.entry.id} {flags}"
    if not fitting and not process.candidates:
        yield (
            "This agent gets no entries at all: create one under it, "
            f"vestibule entry create --parent-id {process.agent.spiffe_id or 'AGENT'} --spiffe-id … --selector …"
        )
    if not process.agent.connected:
        yield "The agent is not connected to its server, so it does not learn of new entries: see vestibule check."
    if "server" in report.missed:
        flags = " ".join(f"--selector '{each}'" for each in report.selectors)
        target = f"--agent {report.agent_id} " if report.agent_id else ""
        yield f"Entries that do not reach this agent are known to the server; ask there: vestibule why {target}{flags}"
    elif report.identity is not None:
        yield from _chain_advice(report.identity)


def _suggested(candidate: Any, own: Iterable[str]) -> list[str]:
    """The selectors of an entry, with what differs as the process has it; none if something has no counterpart."""
    swapped = {each.expected: (each.found[0] if each.found else None) for each in candidate.missing}
    wanted = [swapped.get(each, each) for each in candidate.entry.selectors]
    if any(each is None or each.endswith("=…") for each in wanted):
        return []
    return [each for each in wanted if each in set(own)]


def _identity_advice(report: Report) -> Iterator[str]:
    found = report.identity
    if found.nearest_spiffe_id:
        yield f"Was {found.nearest_spiffe_id} meant?"
    if not found.entries:
        yield "Create an entry: vestibule entry create --parent-id … --spiffe-id … --selector …"
    yield from _chain_advice(found)


def _chain_advice(found: Any) -> Iterator[str]:
    for given in found.entries:
        broken = [step for step in given.chain if step.broken]
        if broken and not given.reaches:
            yield (
                f"Put entry {given.entry.id} under an agent or one of its aliases: vestibule entry update "
                f"{given.entry.id} --parent-id …  (vestibule agent list shows the agents)"
            )
            return


def _entry_name(entry: Any) -> str:
    if entry.path_template:
        return f"{SpiffeId.parse(entry.spiffe_id).trust_domain.id}{entry.path_template}"
    return str(entry.spiffe_id)


def _since(seen_at: int) -> str:
    return f" since {countdown(time.time() - seen_at)}" if seen_at else ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
