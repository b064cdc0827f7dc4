"""``vestibule.admin.v1.Administrators``: who may administer what; for full administrators."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.doors.identity_api.values import actor, receive, unix
from vestibule.identity.administration import Administration
from vestibule.identity.codes import INVALID_ADMINISTRATOR
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Administrator
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import administrators_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Administrators"]


class AdministratorsDoor:
    """Translates for ``identity.administration``."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def grant(self, stream: Stream) -> None:
        """Grant.  Raises: VST1356, VST1204, VST1205, VST1400, VST1011."""
        request = await receive(stream)
        made = await self._administration.grant(actor(), _from_wire(request.administrator))
        await stream.send_message(_to_wire(made))

    async def list(self, stream: Stream) -> None:
        """List."""
        await receive(stream)
        found = [_to_wire(each) for each in self._administration.all]
        await stream.send_message(wire.ListAdministratorsResponse(administrators=found))

    async def revoke(self, stream: Stream) -> None:
        """Revoke.  Raises: VST1357."""
        request = await receive(stream)
        await self._administration.revoke(actor(), request.id)
        await stream.send_message(wire.RevokeAdministratorResponse())


def _from_wire(message: wire.Administrator) -> Administrator:
    try:
        ends = datetime.fromtimestamp(message.expires_at, UTC) if message.expires_at else None
        x509, jwt = (
            timedelta(seconds=ttl) if ttl else None
            for ttl in (message.max_x509_svid_ttl, message.max_jwt_svid_ttl)
        )
    except (ValueError, OverflowError, OSError) as error:
        raise INVALID_ADMINISTRATOR.error("an instant or a TTL is out of range") from error
    return Administrator(
        id="",
        spiffe_id=SpiffeId.parse(message.spiffe_id),
        powers=tuple(dict.fromkeys(message.powers)),
        paths=tuple(dict.fromkeys(message.paths)),
        parents=tuple(dict.fromkeys(message.parents)),
        features=tuple(dict.fromkeys(message.features)),
        dns_suffixes=tuple(dict.fromkeys(message.dns_suffixes)),
        max_x509_svid_ttl=x509,
        max_jwt_svid_ttl=jwt,
        expires_at=ends,
    )


def _to_wire(grant: Administrator) -> wire.Administrator:
    return wire.Administrator(
        id=grant.id,
        spiffe_id=str(grant.spiffe_id),
        powers=grant.powers,
        paths=grant.paths,
        parents=grant.parents,
        features=grant.features,
        dns_suffixes=grant.dns_suffixes,
        max_x509_svid_ttl=_seconds(grant.max_x509_svid_ttl),
        max_jwt_svid_ttl=_seconds(grant.max_jwt_svid_ttl),
        expires_at=unix(grant.expires_at),
        created_at=unix(grant.created_at),
        created_by=grant.created_by,
    )


def _seconds(ttl: timedelta | None) -> int:
    return int(ttl.total_seconds()) if ttl else 0
