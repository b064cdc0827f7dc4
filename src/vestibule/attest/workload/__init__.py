"""Workload attestation: from a pinned process to its selectors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vestibule.attest.workload.codes import NOT_ATTESTED
from vestibule.attest.workload.ports import Process, WorkloadAttestor
from vestibule.spiffe import Selector

__all__ = ["Process", "WorkloadAttestor", "attest_workload"]

_log = logging.getLogger(__name__)


async def attest_workload(attestors: Sequence[WorkloadAttestor], process: Process) -> frozenset[Selector]:
    """The findings of all attestors together.

    A failing attestor takes nothing from the others' findings: entries that need its selectors do not
    match, which is the safe side.  Raises: VST2050 when every attestor failed; VST2312 if the process ended
    meanwhile.
    """
    answers = await asyncio.gather(
        *(attestor.attest(process) for attestor in attestors), return_exceptions=True
    )
    found: set[Selector] = set()
    failed = 0
    for attestor, answer in zip(attestors, answers, strict=True):
        if isinstance(answer, Exception):
            failed += 1
            _log.warning("attestor %s failed for process %d: %s", attestor.name, process.pid, answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found |= answer
    # Findings about a process that ended while we looked would be given to nobody, or to a child of it.
    process.check()
    if failed == len(attestors):
        raise NOT_ATTESTED.error(f"no attestor could examine process {process.pid}")
    return frozenset(found)
