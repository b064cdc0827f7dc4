"""What stands between a sidecar with its app and everybody else on the host: namespace and packet filters.

Put up before anything listens, kept up with the addresses, and taken down when nothing listens any more.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.processes import User
from vestibule.proxy import guard, interception, namespace, nftables
from vestibule.proxy.codes import BOUNDARY_MISFIT
from vestibule.proxy.guard import Guarded
from vestibule.proxy.interception import Intercepted
from vestibule.proxy.layout import Layout
from vestibule.proxy.namespace import Namespace
from vestibule.records import Address, Boundary, ServiceView

_UCRED: Final = struct.Struct("3i")
_HOSTS: Final = "hosts"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WallSettings:
    """What is asked for.  ``netns`` names a namespace that is there already; None makes one.

    ``intercept`` turns an unmodified app's traffic through the sidecar, ``intercept_ports`` also its calls to these
    ports of any machine.  ``app_user`` and ``proxy_user`` are whom app and Envoy run as, None for the sidecar's own.
    """

    boundary: Boundary
    netns: str | None = None
    intercept: bool = False
    intercept_ports: tuple[int, ...] = ()
    app_user: User | None = None
    proxy_user: User | None = None

    def check(self) -> None:
        """Raises: VST7243 for what does not go together."""
        if self.netns is not None and self.boundary is not Boundary.NETNS:
            raise BOUNDARY_MISFIT.error("--netns names the namespace of --boundary netns")
        if self.intercept and self.boundary is Boundary.UNIX:
            raise BOUNDARY_MISFIT.error(
                "under the boundary unix nothing is intercepted: there are no ports to turn to"
            )
        if self.intercept_ports and not self.intercept:
            raise BOUNDARY_MISFIT.error("--intercept-port says more about --intercept; give both")
        if self.intercept_ports and self.app_uid == self.proxy_uid:
            raise BOUNDARY_MISFIT.error(
                "--intercept-port needs app and Envoy to be different users, else Envoy's own calls come back to it",
                advice="Run the app as another user: --user NAME.",
            )
        if self.boundary is Boundary.UNIX and self.app_uid != self.proxy_uid:
            raise BOUNDARY_MISFIT.error(
                "under the boundary unix the sockets between app and Envoy belong to one user",
                advice="Give --proxy-user the same name as --user, or leave both out.",
            )

    @property
    def app_uid(self) -> int:
        return os.geteuid() if self.app_user is None else self.app_user.uid

    @property
    def proxy_uid(self) -> int:
        return os.geteuid() if self.proxy_user is None else self.proxy_user.uid

    @property
    def has_rules(self) -> bool:
        """Whether packet filters are needed at all."""
        return self.intercept or self.boundary in (Boundary.GUARD, Boundary.NETNS)


@dataclass(slots=True, kw_only=True)
class Walls:
    """The walls of one sidecar.  ``owner`` is its name in the run directory."""

    settings: WallSettings
    run_directory: Path
    owner: str
    agent_socket: Path
    directory: Path
    _namespace: Namespace | None = None
    _applied: list[str] = field(default_factory=list)

    def enter(self, alive: Callable[[], Iterable[str]]) -> str | None:
        """Before there is any address: clear up after the dead, and move into the namespace.

        The answer is where others reach it, if the namespace decides that.  Raises: VST7240–VST7243.
        """
        if not self.settings.has_rules:
            return None
        for name in nftables.sweep(self.run_directory, alive):
            _log.warning("removed the packet filters of a killed sidecar: %s", name)
        if self.settings.boundary is not Boundary.NETNS:
            return None
        if self.settings.netns is None:
            self._namespace = Namespace.make(self.owner[:8])
        else:
            self._namespace = Namespace.join(self.settings.netns)
        return self._namespace.address or None

    def put_up(self, layout: Layout, view: ServiceView) -> None:
        """The rules for the addresses as they are now; all of them or none.  Raises: VST7240–VST7242."""
        if self.settings.intercept:
            self._write_hosts(layout, view)
        if self.settings.has_rules and (chains := self._chains(layout)) != self._applied:
            self._table.replace(chains)
            self._applied = chains

    @property
    def hosts(self) -> Path | None:
        """What the app is to see as ``/etc/hosts``."""
        return self.directory / _HOSTS if self.settings.intercept else None

    @property
    def hides_app(self) -> bool:
        """Whether an app that listens beyond loopback is out of others' reach all the same."""
        return self.settings.boundary is Boundary.NETNS

    def take_down(self) -> None:
        """Nothing listens any more.  Safe to call twice; what fails is cleared up by the next sidecar here."""
        if self._applied:
            self._applied = []
            try:
                self._table.remove()
            except VestibuleError as error:
                _log.warning("the packet filters stay: %s", error)
        if self._namespace is not None:
            self._namespace.leave()

    @property
    def _table(self) -> nftables.Table:
        return nftables.Table(run_directory=self.run_directory, owner=self.owner)

    def _chains(self, layout: Layout) -> list[str]:
        found: list[str] = []
        settings = self.settings
        apps, ingress = tuple(layout.apps.values()), tuple(layout.ingress.values())
        if settings.boundary is Boundary.NETNS:
            found += namespace.chains(ingress)
        if settings.boundary in (Boundary.GUARD, Boundary.NETNS):
            found += guard.chains(
                Guarded(
                    ways_out=_tcp(layout.egress, *layout.upstreams.values()),
                    apps=_tcp(*apps),
                    ingress=_tcp(*ingress),
                    callers=frozenset({settings.app_uid}),
                    proxies=frozenset({settings.proxy_uid, os.geteuid(), *_owner_of(self.agent_socket)}),
                )
            )
        if settings.intercept:
            pairs = [(layout.apps[name], layout.ingress[name]) for name in layout.apps]
            found += interception.chains(
                Intercepted(
                    upstreams=layout.upstreams,
                    egress=layout.egress,
                    ports=settings.intercept_ports,
                    callers=None
                    if self.hides_app and not settings.intercept_ports
                    else frozenset({settings.app_uid}),
                    inbound=interception.inbound(pairs),
                )
            )
        return found

    def _write_hosts(self, layout: Layout, view: ServiceView) -> None:
        # In place: the app holds on to the file that it was started with.
        assert self.hosts is not None
        self.hosts.write_text(
            interception.hosts_file(view, layout.upstreams), encoding="utf-8", errors="surrogateescape"
        )
        self.hosts.chmod(0o644)


def _tcp(*addresses: Address | None) -> tuple[Address, ...]:
    return tuple(each for each in addresses if each is not None and each.port)


def _owner_of(path: Path) -> tuple[int, ...]:
    """The user of the agent, who looks after the app's health; nobody while it is away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
            return (_UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1],)
        except OSError:
            return ()
