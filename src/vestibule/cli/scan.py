"""``vestibule scan``: what endpoints show, what they ask of callers, and what they let through."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule import __version__
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.cli.bundle_files import read_file
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, answer, run
from vestibule.cli.scan_progress import progress
from vestibule.cli.scan_report import document, show
from vestibule.cli.sockets import AgentSocketOption, find_sockets
from vestibule.cli.text_files import read_text, write_text
from vestibule.clock import SystemClock
from vestibule.diagnose.scan import STARTTLS, Authorities, Pace, Settings, foreign_identity
from vestibule.diagnose.scan import scan as look
from vestibule.pki.certificates import load_certificate
from vestibule.pki.pem import CERTIFICATE, pem_blocks
from vestibule.posture import (
    Comparison,
    Judged,
    Profile,
    Scan,
    Severity,
    Target,
    compare,
    distinct,
    judge,
    markdown,
    parse_list,
    parse_target,
    read_scan,
    sarif,
    write_scan,
)
from vestibule.spiffe import X509Svid

MOST_AT_ONCE: Final = 1000


class ScanOutput(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """Forms of the answer."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


class FailOn(str, Enum):  # noqa: UP042 - as above
    """From which severity on the exit code is 1."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
    NEVER = "never"


class Expected(str, Enum):  # noqa: UP042 - as above
    """What the endpoints should be."""

    SERVICE = "service"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A saved scan, and what is to be said of it."""

    scan: Scan
    judged: tuple[Judged, ...]


def scan(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="HOST:PORT", help="What to scan; URLs will do, too.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="LIST", help="More of them, one per line; # is a comment."),
    ] = None,
    expect: Annotated[
        Expected,
        typer.Option(
            "--expect", help="service: knows its callers by mutual TLS. public: a website, open to all."
        ),
    ] = Expected.SERVICE,
    with_svid: Annotated[
        bool,
        typer.Option(
            "--with-svid", help="Also call as this process, by its SVID, and believe its trust bundles."
        ),
    ] = False,
    hint: Annotated[str, typer.Option("--hint", help="With --with-svid: the identity with this hint.")] = "",
    trust_bundle: Annotated[
        Path | None,
        typer.Option("--trust-bundle", metavar="PEM", help="Authorities to believe, of any trust domain."),
    ] = None,
    starttls: Annotated[
        str,
        typer.Option(
            "--starttls", metavar="PROTOCOL", help="The endpoints begin without TLS: postgres or smtp."
        ),
    ] = "",
    server_name: Annotated[
        str,
        typer.Option("--server-name", metavar="NAME", help="The name to ask for (SNI). [default: the host]"),
    ] = "",
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Keep what was seen, to compare with later.")
    ] = None,
    compare_with: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="FILE", help="Say what changed since; without targets, those of then."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.md", help="Write it as Markdown, for the ticket.")
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit 1 for findings of this severity and above.")
    ] = FailOn.MEDIUM,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=120, help="Seconds for one connection.")
    ] = 5.0,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", min=1, max=MOST_AT_ONCE, help="Endpoints at a time; one connection each."
        ),
    ] = 50,
    rate: Annotated[
        float,
        typer.Option("--rate", min=0.1, max=10_000, help="New connections per second, of all together."),
    ] = 500.0,
    agent_socket: AgentSocketOption = None,
    output: Annotated[
        ScanOutput,
        typer.Option("--output", "-o", help="text for people, json for programs, sarif for code hosts."),
    ] = ScanOutput.TEXT,
) -> None:
    """Look at endpoints as a caller does: versions and ciphers of TLS, certificates and SPIFFE IDs, whether a client
    certificate is asked for and enforced, whether they answer without TLS.

    Takes six to forty connections per endpoint, and asks GET / at most.  Exits 1 on findings of --fail-on, 3 if no
    endpoint could be reached.  Scan what you may.
    """
    form = Output.TEXT if output is ScanOutput.TEXT else Output.JSON

    async def main() -> Exit:
        if starttls and starttls not in STARTTLS:
            raise USAGE.error(f"--starttls knows {' and '.join(STARTTLS)}, not {starttls!r}")
        profile, clock = Profile(expect.value), SystemClock()
        earlier = _earlier(compare_with) if compare_with else None
        wanted = _targets(targets or [], file, earlier)
        context = await _context(agent_socket) if with_svid else None
        settings = Settings(
            timeout=timeout,
            pace=Pace(rate),
            clock=clock,
            authorities=_authorities(context, trust_bundle),
            foreign=foreign_identity(clock.now()),
            own=_own(context, hint) if context else None,
            starttls=starttls,
            server_name=server_name,
        )
        async with progress(len(wanted)) as step:
            facts = await look(wanted, settings, concurrency=concurrency, seen=lambda _: step())
        seen = Scan(made=clock.now(), profile=profile, endpoints=facts)
        judged = tuple(judge(each, profile, each.seen) for each in facts)
        comparison = compare(earlier.judged, judged) if earlier else None
        if save:
            write_text(save, write_scan(seen))
        if report:
            before = (earlier.scan.made, earlier.judged, comparison) if earlier and comparison else None
            write_text(report, markdown(seen.made, judged, before))
        _answer(output, seen, judged, comparison)
        return _exit(judged, fail_on)

    run(form, "scan", main)


def _earlier(path: Path) -> Earlier:
    """Judged by today's rules and the expectation of then, as of then.  Raises: VST2471, VST9100."""
    found = read_scan(read_text(path), str(path))
    judged = tuple(judge(each, found.profile, each.seen) for each in found.endpoints)
    return Earlier(scan=found, judged=judged)


def _targets(words: Sequence[str], file: Path | None, earlier: Earlier | None) -> tuple[Target, ...]:
    found = [parse_target(word) for word in words]
    if file is not None:
        found += parse_list(read_text(file).splitlines(), str(file))
    if not found and file is None and earlier is not None:
        found += [each.target for each in earlier.judged]
    return distinct(found)


async def _context(agent_socket: Path | None) -> X509Context:
    channel = unix_channel(find_sockets(agent=agent_socket).existing_agent())
    try:
        return await WorkloadApi(channel).fetch()
    finally:
        channel.close()


def _own(context: X509Context, hint: str) -> X509Svid:
    if not hint:
        return context.svids[0]
    found = next((each for each in context.svids if each.hint == hint), None)
    if found is None:
        raise USAGE.error(f"no identity has the hint {hint!r}", advice="`vestibule svid fetch` shows them.")
    return found


def _authorities(context: X509Context | None, path: Path | None) -> Authorities:
    """Raises: VST1005, VST1032, VST9100."""
    named = pem_blocks(read_file(path), CERTIFICATE) if path is not None else ()
    for each in named:
        load_certificate(each)
    bundles = {each.trust_domain: each for each in context.bundles} if context is not None else {}
    return Authorities(bundles=bundles, named=named)


def _answer(
    output: ScanOutput, seen: Scan, judged: tuple[Judged, ...], comparison: Comparison | None
) -> None:
    if output is ScanOutput.SARIF:
        text = json.dumps(sarif(judged, __version__), indent=2)
        answer(Output.TEXT, "scan", None, lambda: print(text, file=sys.stdout))  # noqa: T201
        return
    form = Output(output.value)
    answer(form, "scan", document(seen, judged, comparison), lambda: show(seen, judged, comparison))


def _exit(judged: Sequence[Judged], fail_on: FailOn) -> Exit:
    if all(each.facts.unreachable for each in judged):
        return Exit.UNREACHABLE
    if fail_on is FailOn.NEVER:
        return Exit.FINE
    least = Severity(fail_on.value).rank
    bad = any(finding.severity.rank >= least for each in judged for finding in each.findings)
    return Exit.FINDINGS if bad else Exit.FINE
