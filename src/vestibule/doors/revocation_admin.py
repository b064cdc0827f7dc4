"""``vestibule.admin.v1.RevocationAdmin``: revoking, for the operator on the server's private socket."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509

from vestibule.doors.identity_api.values import actor, receive
from vestibule.identity.codes import NOTHING_TO_REVOKE
from vestibule.identity.crl_publishing import CrlPublishing
from vestibule.identity.revocation import CertificateName, Order, Plan, Revoking
from vestibule.identity.revocation_impact import Drill, Impact
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.spiffe import Reason, Revocation, RevokedIdentity, SpiffeId
from vestibule.spiffe.codes import MALFORMED_REVOCATION
from vestibule.spiffe.revocations import MAX_SERIAL
from vestibule.wire.gen.vestibule.admin.v1 import revocation_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["RevocationAdmin"]
LONGEST_GRACE: Final = 3600
PAGE: Final = 1000


class RevocationAdminDoor:
    """Translates for ``identity.revocation``, its drill and its CRLs."""

    def __init__(self, revoking: Revoking, drill: Drill, crls: CrlPublishing) -> None:
        self._revoking = revoking
        self._drill = drill
        self._crls = crls

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def revoke(self, stream: Stream) -> None:
        """Revoke.  The impact is looked at first: afterwards, less is there to be seen."""
        request = await receive(stream)
        order = Order(actor=actor(), reason=reason_of(request.reason), note=_note(request.note))
        plan = await self._plan(request, order)
        response = wire.RevokeResponse(impact=impact_to_wire(await self._drill.of(plan)))
        if request.dry_run:
            response.revocations.extend(map(to_wire, plan.revocations))
        else:
            grace = timedelta(seconds=min(request.grace_seconds, LONGEST_GRACE))
            after = await self._revoking.carry_out(plan, order, grace=grace)
            response.version = after.version
            response.revocations.extend(to_wire(after.get(each.id) or each) for each in plan.revocations)
        await stream.send_message(response)

    async def list(self, stream: Stream) -> None:
        """List."""
        request = await receive(stream)
        now = self._revoking.now
        size = min(request.page_size or PAGE, PAGE)
        found = now.since(request.since)
        part = found[:size]
        await stream.send_message(
            wire.ListRevocationsResponse(
                revocations=map(to_wire, part),
                next_since=part[-1].version if len(part) < len(found) else 0,
                version=now.version,
            )
        )

    async def lift(self, stream: Stream) -> None:
        """Lift."""
        request = await receive(stream)
        order = Order(actor=actor(), reason=reason_of(request.reason), note=_note(request.note))
        lifted = await self._revoking.lift(order, SpiffeId.parse(request.identity))
        await stream.send_message(wire.LiftResponse(revocation=to_wire(lifted)))

    async def get_crl(self, stream: Stream) -> None:
        """GetCrl."""
        request = await receive(stream)
        crl = self._crls.get(request.authority_id)
        await stream.send_message(
            wire.GetCrlResponse(
                authority_id=crl.authority_id,
                der=crl.der,
                number=str(crl.number),
                this_update=_seconds(crl.this_update),
                next_update=_seconds(crl.next_update),
                revoked=len(x509.load_der_x509_crl(crl.der)),
            )
        )

    async def _plan(self, request: Any, order: Order) -> Plan:
        match request.WhichOneof("target"):
            case "identity":
                spiffe_id = SpiffeId.parse(request.identity)
                return await self._revoking.plan_identity(order, spiffe_id, allow_new=request.allow_new)
            case "certificate":
                return await self._revoking.plan_certificate(order, certificate_name(request.certificate))
            case "agent":
                return await self._revoking.plan_agent(order, SpiffeId.parse(request.agent))
            case "authority":
                authority = request.authority
                return await self._revoking.plan_authority(order, authority.id, authority.der)
        raise NOTHING_TO_REVOKE.error("the request names nothing to revoke")


def certificate_name(message: wire.RevokeRequest.Certificate) -> CertificateName:
    """Which certificate is meant.  Raises: VST1403."""
    if message.der:
        return CertificateName(der=message.der)
    authority_id, serial = message.authority_id.lower(), message.serial
    if not (serial.isascii() and serial.isdecimal() and len(serial) < 50 and 0 < int(serial) <= MAX_SERIAL):
        raise MALFORMED_REVOCATION.error(f"{serial[:60]!r} is not a serial number")
    if authority_id.strip("0123456789abcdef") or len(authority_id) % 2 or len(authority_id) > 128:
        raise MALFORMED_REVOCATION.error(f"{authority_id[:80]!r} is not the ID of an authority")
    return CertificateName(serial=int(serial), authority_id=authority_id)


def reason_of(text: str) -> Reason:
    """Raises: VST1403."""
    try:
        return Reason(text or Reason.UNSPECIFIED.value)
    except ValueError as error:
        known = ", ".join(each.value for each in Reason)
        raise MALFORMED_REVOCATION.error(f"{text[:40]!r} is no reason; known are {known}") from error


def _note(text: str) -> str:
    # It is shown on terminals and written to logs.
    return "".join(each if each.isprintable() else " " for each in text)


def to_wire(each: Revocation) -> wire.RevocationEntry:
    """A revocation with everything that the operator may know."""
    target = each.target
    before = target.issued_before if isinstance(target, RevokedIdentity) else None
    return wire.RevocationEntry(
        id=each.id,
        kind=target.kind,
        name=target.name,
        issued_before=_seconds(before),
        at=int(each.at.timestamp()),
        reason=each.reason.value,
        note=each.note,
        actor=each.actor,
        expires_at=_seconds(each.expires_at),
        version=each.version,
    )


def impact_to_wire(impact: Impact) -> wire.Impact:
    """The drill's findings."""
    message = wire.Impact(
        certificates=impact.certificates,
        until=_seconds(impact.until),
        offline_root=impact.offline_root,
        warnings=impact.warnings,
        identities_left_out=impact.left_out,
    )
    message.identities.extend(_identities(impact))
    for agent in impact.agents:
        message.agents.add(spiffe_id=str(agent.spiffe_id), connected=agent.connected, banned=agent.banned)
    for proxy in impact.proxies:
        message.proxies.add(
            instance_id=proxy.id,
            service=proxy.service,
            spiffe_id=str(proxy.spiffe_id),
            agent_id=str(proxy.agent_id),
        )
    for client in impact.clients:
        message.clients.add(kind=client.kind, how_soon=client.how_soon, how=client.how)
    return message


def _identities(impact: Impact) -> Iterator[wire.Impact.Identity]:
    for each in impact.identities:
        yield wire.Impact.Identity(
            spiffe_id=each.spiffe_id, certificates=each.certificates, until=_seconds(each.until)
        )


def _seconds(instant: datetime | None) -> int:
    return 0 if instant is None else math.ceil(instant.astimezone(UTC).timestamp())
