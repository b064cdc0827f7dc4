"""``vestibule.admin.v1.TokensAdmin``: the token service, for operators on the server's private socket.

What takes away is put on record, at once or later, and is done in any case; what is revoked by its key, too.
"""

from __future__ import annotations

from typing import Final

from vestibule.audit import AuditEvent, EmergencyAudit
from vestibule.doors.identity_api.values import actor, receive, unix
from vestibule.doors.oauth.codes import NO_TOKEN_SERVICE
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.tokens.clients import ClientUse
from vestibule.tokens.codes import REVOCATION_MALFORMED
from vestibule.tokens.keys import KeyInfo
from vestibule.tokens.ports import RevokedBy, RevokedTokens
from vestibule.tokens.service import TokenService
from vestibule.wire.gen.vestibule.admin.v1 import tokens_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["TokensAdmin"]
LONGEST_REASON: Final = 512


class TokensAdminDoor:
    """Translates for ``tokens.service``; without one the server issues no tokens."""

    def __init__(self, service: TokenService | None, audit: EmergencyAudit) -> None:
        self._service = service
        self._audit = audit

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def list_keys(self, stream: Stream) -> None:
        """ListKeys.  Raises: VST6078."""
        await receive(stream)
        known = self._known()
        await stream.send_message(_keys(known, known.keys()))

    async def rotate_keys(self, stream: Stream) -> None:
        """RotateKeys.  Raises: VST6078, VST6034, errors of the barrier."""
        await receive(stream)
        known = self._known()
        await self._audit.record_or_defer([_event("token.key.rotate", known.settings.issuer, "")])
        await stream.send_message(_keys(known, await known.rotate()))

    async def revoke_key(self, stream: Stream) -> None:
        """RevokeKey.  Raises: VST6078, VST6031, VST6034, errors of the barrier."""
        request = await receive(stream)
        known, reason = self._known(), _reason(request.reason)
        await self._audit.record_or_defer([_event("token.key.revoke", request.key_id, reason)])
        await stream.send_message(_revoked(await known.revoke_key(request.key_id, reason)))

    async def revoke(self, stream: Stream) -> None:
        """Revoke; a token by its ID, never by itself.  Raises: VST6078, VST6032, VST6033, errors of the barrier."""
        request = await receive(stream)
        known, by, reason = self._known(), _by(request.by), _reason(request.reason)
        if by is RevokedBy.TOKEN and "." in request.value:  # it would be put on record
            raise REVOCATION_MALFORMED.error("that is no ID of a token, and perhaps a token itself")
        event = _event("token.revoke", request.value, reason, by=by.value)
        await self._audit.record_or_defer([event])
        await stream.send_message(_revoked(await known.revoke_by(by, request.value, reason)))

    async def list_revoked(self, stream: Stream) -> None:
        """ListRevoked.  Raises: VST6078."""
        await receive(stream)
        found = map(_revoked, self._known().revoked.now)
        await stream.send_message(wire.RevokedTokenList(revoked=found))

    async def list_clients(self, stream: Stream) -> None:
        """ListClients.  Raises: VST6078."""
        await receive(stream)
        await stream.send_message(wire.TokenClients(clients=map(_client, self._known().clients())))

    def _known(self) -> TokenService:
        if self._service is None:
            raise NO_TOKEN_SERVICE.error("this server issues no tokens")
        return self._service


def _by(text: str) -> RevokedBy:
    kinds = {each.value: each for each in RevokedBy if each is not RevokedBy.KEY}
    if (found := kinds.get(text)) is None:
        raise REVOCATION_MALFORMED.error(f"tokens are revoked by one of: {', '.join(kinds)}")
    return found


def _reason(text: str) -> str:
    return text[:LONGEST_REASON]


def _event(action: str, subject: str, reason: str, **details: str) -> AuditEvent:
    told = {"reason": reason, **details} if reason else details
    return AuditEvent(actor=actor(), action=action, subject=subject[:LONGEST_REASON], details=told)


def _keys(service: TokenService, keys: tuple[KeyInfo, ...]) -> wire.TokenKeys:
    return wire.TokenKeys(issuer=service.settings.issuer, keys=map(_key, keys))


def _key(key: KeyInfo) -> wire.TokenKey:
    return wire.TokenKey(
        key_id=key.key_id,
        state=key.state.value,
        published_at=unix(key.published),
        begins_at=unix(key.begins),
        until=unix(key.until),
        ended_at=unix(key.ended),
    )


def _revoked(entry: RevokedTokens) -> wire.RevokedToken:
    return wire.RevokedToken(
        by=entry.by.value,
        value=entry.value,
        before=unix(entry.before),
        until=unix(entry.until),
        reason=entry.reason,
    )


def _client(use: ClientUse) -> wire.TokenClient:
    return wire.TokenClient(
        client=str(use.client), tokens=use.tokens, refusals=use.refusals, last_at=unix(use.last)
    )
