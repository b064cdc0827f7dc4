"""Workload attestation: from a pinned process to its selectors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vestibule.attest.workload.codes import ATTESTOR_TIMED_OUT, FOREIGN_SELECTORS, NOT_ATTESTED
from vestibule.attest.workload.ports import Process, WorkloadAttestor
from vestibule.spiffe import Selector

__all__ = [
    "PATIENCE",
    "Finding",
    "Process",
    "WorkloadAttestor",
    "attest_workload",
    "examine",
    "shown",
    "together",
]

PATIENCE: Final = 5.0
"""Seconds that each attestor has; they work at the same time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one attestor found out about a process, or why it could not."""

    attestor: str
    selectors: frozenset[Selector] = frozenset()
    error: Exception | None = None


async def examine(
    attestors: Sequence[WorkloadAttestor], process: Process, *, patience: float = PATIENCE
) -> list[Finding]:
    """The findings of each attestor, failures included.  Raises: VST2312 if the process ended meanwhile."""
    answers = await asyncio.gather(
        *(_ask(attestor, process, patience) for attestor in attestors), return_exceptions=True
    )
    findings = []
    for attestor, answer in zip(attestors, answers, strict=True):
        if isinstance(answer, Exception):
            findings.append(Finding(attestor.name, error=answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            findings.append(Finding(attestor.name, answer))
    # Findings about a process that ended while we looked would be given to nobody, or to a child of it.
    process.check()
    return findings


async def attest_workload(
    attestors: Sequence[WorkloadAttestor],
    process: Process,
    *,
    patience: float = PATIENCE,
    observe: Callable[[Sequence[Finding]], None] = lambda _: None,
) -> frozenset[Selector]:
    """The findings of all attestors together.

    A failing attestor takes nothing from the others' findings: entries that need its selectors do not
    match, which is the safe side.  ``observe`` is told of every attestor's finding.
    Raises: VST2050 when every attestor failed; VST2312 if the process ended meanwhile.
    """
    findings = await examine(attestors, process, patience=patience)
    observe(findings)
    failed = [each for each in findings if each.error is not None]
    for each in failed:
        _log.warning("attestor %s failed for process %d: %s", each.attestor, process.pid, each.error)
    if len(failed) == len(attestors):
        names = ", ".join(each.attestor for each in failed)
        raise NOT_ATTESTED.error(f"no attestor could examine process {process.pid}: {names} failed")
    return together(findings)


def together(findings: Iterable[Finding]) -> frozenset[Selector]:
    """The selectors of all findings."""
    return frozenset().union(*(each.selectors for each in findings))


async def _ask(attestor: WorkloadAttestor, process: Process, patience: float) -> frozenset[Selector]:
    try:
        async with asyncio.timeout(patience):
            found = await attestor.attest(process)
    except TimeoutError as error:
        raise ATTESTOR_TIMED_OUT.error(f"no answer within {patience:g} s") from error
    # An attestor speaks for its own type only: one for labels must not be able to claim a uid.
    if foreign := {selector.type for selector in found} - {attestor.name}:
        raise FOREIGN_SELECTORS.error(f"it claims selectors of type {', '.join(sorted(foreign))}")
    return found


def shown(selector: Selector) -> str:
    """A selector for a log or message: a container's environment may hold secrets, so only its names are shown."""
    if selector.value.startswith("env:"):
        return f"{selector.type}:{selector.value.partition('=')[0]}=…"
    return str(selector)
