"""``vestibule.admin.v1.AgentAdmin``: how the agent is, for the operator on its private socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Protocol

from vestibule.agent.cache import Held, Holdings
from vestibule.agent.sidecars import Session
from vestibule.agent.skew import Skew
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2 as wire
from vestibule.xds.resources import ProxyKey

SERVICE: Final = wire.DESCRIPTOR.services_by_name["AgentAdmin"]


class Contact(Protocol):
    """How the agent stands with its server."""

    @property
    def connected(self) -> bool: ...

    @property
    def seen_at(self) -> datetime | None: ...

    @property
    def problem(self) -> VestibuleError | None: ...

    @property
    def skew(self) -> Skew | None: ...


class AgentAdminDoor:
    """Collects the status from where it is known.  It tells of keys only that they exist."""

    def __init__(
        self,
        *,
        holdings: Callable[[], Holdings],
        contact: Contact,
        sessions: Callable[[], Iterable[Session]],
        connected_proxies: Callable[[], Iterable[ProxyKey]],
        problems: Callable[[], Iterable[VestibuleError]],
        version: str,
        started_at: datetime,
        kek_home: str = "",
    ) -> None:
        self._holdings = holdings
        self._contact = contact
        self._sessions = sessions
        self._connected_proxies = connected_proxies
        self._problems = problems
        self._version = version
        self._started_at = started_at
        self._kek_home = kek_home

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def get_status(self, stream: Stream) -> None:
        """AgentAdmin.GetStatus."""
        await stream.recv_message()
        holdings, contact = self._holdings(), self._contact
        proxies = set(self._connected_proxies())
        own = holdings.own.svid if holdings.own else None
        await stream.send_message(
            wire.AgentStatus(
                version=self._version,
                spiffe_id=str(own.spiffe_id) if own else "",
                svid_expires_at=_unix(own.not_after) if own else 0,
                server_connected=contact.connected,
                server_seen_at=_unix(contact.seen_at),
                server_error=str(contact.problem) if contact.problem else "",
                svids=[_svid(entry_id, held) for entry_id, held in sorted(holdings.svids.items())],
                sidecars=[_sidecar(session, proxies) for session in self._sessions()],
                started_at=_unix(self._started_at),
                problems=[_problem(error) for error in self._problems()],
                clock_skew=_skew(contact.skew),
                kek_home=self._kek_home,
            )
        )


def _skew(skew: Skew | None) -> wire.ClockSkew | None:
    if skew is None:
        return None
    return wire.ClockSkew(
        seconds=skew.offset.total_seconds(),
        uncertainty_seconds=skew.uncertainty.total_seconds(),
        verified=skew.verified,
    )


def _svid(entry_id: str, held: Held) -> wire.SvidStatus:
    return wire.SvidStatus(
        entry_id=entry_id,
        spiffe_id=str(held.svid.spiffe_id),
        serial=format(held.svid.serial, "x"),
        not_after=_unix(held.svid.not_after),
        renew_at=_unix(held.renew_at),
        from_disk=held.from_disk,
    )


def _sidecar(session: Session, proxies: set[ProxyKey]) -> wire.SidecarStatus:
    identity, instance = session.spiffe_id, session.instance
    return wire.SidecarStatus(
        service=session.service,
        spiffe_id=str(identity or ""),
        instance_id=session.instance_id,
        registered=session.registered,
        envoy_connected=identity is not None and ProxyKey(identity, session.instance_id) in proxies,
        boundary=instance.boundary.value if instance else "",
        apps={name: str(address) for name, address in instance.apps.items()} if instance else {},
    )


def _problem(error: VestibuleError) -> wire.Problem:
    return wire.Problem(
        code=error.code.code,
        message=error.message,
        advice=error.advice,
        where=str(error.where or ""),
        severity="error",
    )


def _unix(instant: datetime | None) -> int:
    return int(instant.timestamp()) if instant else 0
