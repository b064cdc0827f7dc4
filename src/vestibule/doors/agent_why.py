"""``vestibule.admin.v1.AgentWhy``: why a process of this node has what it has, for the operator alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from vestibule.agent.cache import Held, Holdings
from vestibule.agent.why import Candidate, TemplateLook, Why
from vestibule.attest.workload import Finding, shown
from vestibule.clock import Clock
from vestibule.doors.agent_admin import Contact
from vestibule.doors.why_values import entry_to_wire, missing_to_wire, unix
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.pki.certificates import signer_of
from vestibule.spiffe import TrustDomain
from vestibule.wire.gen.vestibule.admin.v1 import why_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["AgentWhy"]


class AgentWhyDoor:
    """Translates for ``agent.why``.  Mounted on the private socket, whose file lets in only the operator."""

    def __init__(
        self,
        why: Why,
        *,
        holdings: Callable[[], Holdings],
        ready: Callable[[], bool],
        contact: Contact,
        trust_domain: TrustDomain,
        clock: Clock,
    ) -> None:
        self._why = why
        self._holdings = holdings
        self._ready = ready
        self._contact = contact
        self._trust_domain = trust_domain
        self._clock = clock

    def servable(self) -> Servable:
        """The service, to be mounted on the private socket."""
        return serve(SERVICE, self)

    async def explain_process(self, stream: Stream) -> None:
        """ExplainProcess.  Raises: VST2312 (no such process)."""
        request = await stream.recv_message()
        found = await self._why.explain(request.pid)
        now = self._clock.now()
        await stream.send_message(
            wire.ProcessExplanation(
                process=wire.WhyProcess(pid=request.pid, uid=found.uid, gid=found.gid, program=found.program),
                agent=self._agent(),
                attestors=[_attestor(each) for each in found.findings],
                selectors=sorted(map(shown, found.selectors)),
                candidates=[_candidate(each, now) for each in found.candidates],
                left_out=found.left_out,
                templates=[_template(each) for each in found.templates],
            )
        )

    def _agent(self) -> wire.WhyAgent:
        holdings, contact = self._holdings(), self._contact
        own = holdings.own.svid if holdings.own else None
        return wire.WhyAgent(
            spiffe_id=str(own.spiffe_id) if own else "",
            svid_expires_at=unix(own.not_after) if own else 0,
            ready=self._ready(),
            connected=contact.connected,
            seen_at=unix(contact.seen_at),
            problem=str(contact.problem) if contact.problem else "",
            entries=len(holdings.entries),
            trust_domain=str(self._trust_domain),
        )


def _attestor(finding: Finding) -> wire.WhyAttestor:
    error = finding.error
    told = "" if error is None else str(error) if isinstance(error, VestibuleError) else type(error).__name__
    return wire.WhyAttestor(
        name=finding.attestor,
        selectors=sorted(map(shown, finding.selectors)),
        error=told or ("" if error is None else repr(error)),
    )


def _candidate(candidate: Candidate, now: datetime) -> wire.WhyCandidate:
    return wire.WhyCandidate(
        entry=entry_to_wire(candidate.entry),
        matches=candidate.matches,
        is_default=candidate.is_default,
        missing=missing_to_wire(candidate.missing),
        reasons=candidate.reasons,
        svid=_svid(candidate, candidate.held, now) if candidate.held else None,
    )


def _svid(candidate: Candidate, held: Held, now: datetime) -> wire.WhySvid:
    svid = held.svid
    return wire.WhySvid(
        serial=format(svid.serial, "x"),
        not_before=unix(svid.not_before),
        not_after=unix(svid.not_after),
        renew_at=unix(held.renew_at),
        authority_id=signer_of(svid.chain[0]),
        from_disk=held.from_disk,
        served=candidate.is_served(now),
        refused_until=unix(candidate.refused_until),
    )


def _template(look: TemplateLook) -> wire.WhyTemplate:
    return wire.WhyTemplate(
        entry_id=look.template.entry_id,
        path_template=look.template.path_template,
        matches=not look.missing and not look.problem,
        missing=missing_to_wire(look.missing),
        problem=look.problem,
    )
