"""Between SPIRE's messages and the house's own values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from vestibule.errors import VestibuleError
from vestibule.identity.codes import INVALID_ENTRY, MISSING_PARAMETER
from vestibule.identity.issuance import IssuedSvid
from vestibule.net.caller import current_caller
from vestibule.net.codes import MALFORMED_MESSAGE
from vestibule.net.grpc import STATUS_OF_KIND, Stream
from vestibule.records import AgentRecord, Entry
from vestibule.spiffe import JwtAuthority, JwtSvid, Selector, SpiffeId, TrustBundle, TrustDomain, WitSvid
from vestibule.store import Match
from vestibule.wire.gen.spire import types_pb2 as types

M = TypeVar("M", bound=Message)

MATCHES: Final = {0: Match.EXACT, 1: Match.SUBSET, 2: Match.SUPERSET, 3: Match.ANY}
"""``SelectorMatch.MatchBehavior`` and ``FederatesWithMatch.MatchBehavior``."""


async def receive(stream: Stream) -> Any:
    """The only message of a unary request.  Raises: VST2313 when the caller ends without one."""
    message = await stream.recv_message()
    if message is None:
        raise MALFORMED_MESSAGE.error("the request ended before its message")
    return message


def actor() -> str:
    """The caller, as the audit log names it."""
    return str(current_caller())


def actor_kind() -> str:
    """The caller for limits: an identity is itself, callers of the private socket are one."""
    caller = current_caller()
    return str(caller.spiffe_id) if caller.spiffe_id else caller.kind.value


def own_agent_id() -> SpiffeId:
    """The SPIFFE ID of the agent that calls; the access table lets in nobody else."""
    return own_id()


def own_id() -> SpiffeId:
    """The SPIFFE ID of the caller, where the access table lets in nobody without one."""
    spiffe_id = current_caller().spiffe_id
    assert spiffe_id is not None
    return spiffe_id


def id_from_wire(message: types.SPIFFEID, what: str) -> SpiffeId:
    """Raises: VST1202 when it is absent, VST1400 when it is malformed."""
    if not message.trust_domain:
        raise MISSING_PARAMETER.error(f"{what}: request must specify SPIFFE ID")
    return SpiffeId.of(TrustDomain.parse(message.trust_domain), message.path)


def id_to_wire(spiffe_id: SpiffeId) -> types.SPIFFEID:
    """Trust domain by name, path with its slash."""
    return types.SPIFFEID(trust_domain=str(spiffe_id.trust_domain), path=spiffe_id.path)


def selectors_from_wire(match: types.SelectorMatch) -> tuple[frozenset[Selector], Match]:
    """A filter by selectors.  Raises: VST1203 when it is empty or incomplete."""
    selectors = frozenset(Selector(each.type, each.value) for each in match.selectors)
    if not selectors or not all(each.type and each.value for each in selectors):
        raise INVALID_ENTRY.error("malformed selectors filter: empty selector set or incomplete selector")
    return selectors, MATCHES.get(match.match, Match.EXACT)


def entry_fields(entry: types.Entry, mask: types.EntryMask | None) -> dict[str, Any]:
    """The fields of an ``Entry`` that a message sets: all, or those in the mask.

    Raises: VST1202, VST1203, VST1400.
    """

    def wanted(name: str) -> bool:
        return mask is None or bool(getattr(mask, name))

    fields: dict[str, Any] = {}
    if wanted("spiffe_id"):
        fields["spiffe_id"] = id_from_wire(entry.spiffe_id, "invalid spiffe ID")
    if wanted("parent_id"):
        fields["parent_id"] = id_from_wire(entry.parent_id, "invalid parent ID")
    if wanted("selectors"):
        fields["selectors"] = frozenset(Selector(each.type, each.value) for each in entry.selectors)
    if wanted("x509_svid_ttl"):
        fields["x509_svid_ttl"] = _ttl(entry.x509_svid_ttl)
    if wanted("jwt_svid_ttl"):
        fields["jwt_svid_ttl"] = _ttl(entry.jwt_svid_ttl)
    if wanted("federates_with"):
        fields["federates_with"] = tuple(entry.federates_with)
    if wanted("dns_names"):
        fields["dns_names"] = tuple(entry.dns_names)
    if wanted("expires_at"):
        fields["expires_at"] = _instant(entry.expires_at)
    for name in ("admin", "downstream", "store_svid", "hint"):
        if wanted(name):
            fields[name] = getattr(entry, name)
    if wanted("additional_attributes"):
        for name in ("disable_x509_svid_prefetch", "jwt_svid_include_jti"):
            fields[name] = getattr(entry.additional_attributes, name)
    return fields


def entry_to_wire(entry: Entry, mask: types.EntryMask | None = None) -> types.Entry:
    """An entry, reduced to what the mask asks for; its ID always."""
    message = types.Entry(
        id=entry.id,
        spiffe_id=id_to_wire(entry.spiffe_id),
        parent_id=id_to_wire(entry.parent_id),
        selectors=[types.Selector(type=each.type, value=each.value) for each in sorted(entry.selectors)],
        x509_svid_ttl=_seconds(entry.x509_svid_ttl),
        jwt_svid_ttl=_seconds(entry.jwt_svid_ttl),
        federates_with=entry.federates_with,
        admin=entry.admin,
        downstream=entry.downstream,
        expires_at=unix(entry.expires_at),
        dns_names=entry.dns_names,
        revision_number=entry.revision,
        store_svid=entry.store_svid,
        hint=entry.hint,
        created_at=unix(entry.created_at),
    )
    if entry.disable_x509_svid_prefetch or entry.jwt_svid_include_jti:
        message.additional_attributes.disable_x509_svid_prefetch = entry.disable_x509_svid_prefetch
        message.additional_attributes.jwt_svid_include_jti = entry.jwt_svid_include_jti
    return masked(message, mask)


def agent_to_wire(agent: AgentRecord, mask: types.AgentMask | None = None) -> types.Agent:
    """An agent, reduced to what the mask asks for; its ID always."""
    message = types.Agent(
        id=id_to_wire(agent.spiffe_id),
        attestation_type=agent.attestation_type,
        # SPIRE marks a banned agent by the absence of a serial number.
        x509svid_serial_number="" if agent.banned else agent.serial,
        x509svid_expires_at=unix(agent.expires_at),
        selectors=[types.Selector(type=each.type, value=each.value) for each in sorted(agent.selectors)],
        banned=agent.banned,
        can_reattest=agent.can_reattest,
        agent_version=agent.version,
    )
    return masked(message, mask)


def svid_to_wire(svid: IssuedSvid) -> types.X509SVID:
    """A chain with its identity and end."""
    return types.X509SVID(
        cert_chain=svid.chain, id=id_to_wire(svid.spiffe_id), expires_at=unix(svid.not_after)
    )


def jwt_svid_to_wire(svid: JwtSvid) -> types.JWTSVID:
    """A token with what it says."""
    return types.JWTSVID(
        token=svid.token,
        id=id_to_wire(svid.spiffe_id),
        expires_at=unix(svid.expires_at),
        issued_at=unix(svid.issued_at),
        hint=svid.hint,
    )


def bundle_to_wire(bundle: TrustBundle, mask: types.BundleMask | None = None) -> types.Bundle:
    """A bundle, reduced to what the mask asks for; its trust domain always."""
    message = types.Bundle(
        trust_domain=str(bundle.trust_domain),
        x509_authorities=[
            types.X509Certificate(asn1=der, tainted=der in bundle.tainted_x509)
            for der in bundle.x509_authorities
        ],
        jwt_authorities=[jwt_key_to_wire(key) for key in bundle.jwt_authorities],
        wit_authorities=[wit_key_to_wire(key) for key in bundle.wit_authorities],
        refresh_hint=bundle.refresh_hint,
        sequence_number=bundle.sequence,
    )
    return masked(message, mask)


def jwt_key_to_wire(key: JwtAuthority) -> types.JWTKey:
    """A JWT authority, with what the operator thinks of it."""
    return types.JWTKey(
        public_key=key.public_key, key_id=key.key_id, expires_at=unix(key.expires_at), tainted=key.tainted
    )


def wit_key_to_wire(key: JwtAuthority) -> types.WITKey:
    """A WIT authority, with what the operator thinks of it."""
    return types.WITKey(
        public_key=key.public_key, key_id=key.key_id, expires_at=unix(key.expires_at), tainted=key.tainted
    )


def wit_svid_to_wire(svid: WitSvid) -> types.WITSVID:
    """A token bound to a key, with what it says."""
    return types.WITSVID(
        token=svid.token,
        id=id_to_wire(svid.spiffe_id),
        expires_at=unix(svid.expires_at),
        issued_at=unix(svid.issued_at),
        hint=svid.hint,
    )


def jwt_key_from_wire(key: types.JWTKey | types.WITKey) -> JwtAuthority:
    """A JWT or WIT authority as somebody publishes it.  Raises: VST1203 for an end that is no instant."""
    return JwtAuthority(
        key_id=key.key_id,
        public_key=key.public_key,
        expires_at=_instant(key.expires_at),
        tainted=key.tainted,
    )


def masked(message: M, mask: Message | None) -> M:
    """Clear every field that the mask knows and leaves out; fields it does not know stay."""
    if mask is not None:
        for field in mask.DESCRIPTOR.fields:
            if not getattr(mask, field.name):
                message.ClearField(field.name)
    return message


def mask_of(request: Any, name: str = "output_mask") -> Any:
    """A request's mask, or ``None`` where it has none, which asks for everything."""
    return getattr(request, name) if request.HasField(name) else None


def ok() -> types.Status:
    """The status of an item of a batch that went well."""
    return types.Status(code=0, message="OK")


def status(error: VestibuleError) -> types.Status:
    """The status of an item of a batch that did not; the text begins with our code."""
    code = STATUS_OF_KIND[error.code.kind].value
    return types.Status(code=code, message=f"{error.code.code} {error.message}")


def unix(instant: datetime | None) -> int:
    """Unix seconds; 0 for none."""
    return 0 if instant is None else int(instant.timestamp())


def _instant(seconds: int) -> datetime | None:
    if seconds == 0:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise INVALID_ENTRY.error(f"expires_at {seconds} is not an instant") from error


def _ttl(seconds: int) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


def _seconds(ttl: timedelta | None) -> int:
    return 0 if ttl is None else int(ttl.total_seconds())
