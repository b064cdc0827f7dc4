"""Where everything of one instance listens, and what its app is told about it.

Addresses are given out once and kept: neither a restart of Envoy nor one of the agent moves them.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.intent.built_in import SECRETS_SERVICE
from vestibule.net.unix import check_path
from vestibule.processes import Reservation, claim, reserve, reserve_preferably, retake
from vestibule.proxy.codes import APP_PORT_UNKNOWN, BAD_ADDRESS
from vestibule.records import Address, Boundary, Instance, ServiceView
from vestibule.spiffe import SpiffeId

LOOPBACK: Final = "127.0.0.1"
EGRESS_PORT: Final = 15001
"""Where a lone sidecar's way out is; the second sidecar on a machine gets a free port."""

_WEB: Final = ("http", "http2", "mcp")
_PROXY_VARIABLES: Final = ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")
_NO_PROXY: Final = "localhost,127.0.0.1,::1"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Layout:
    """The addresses of one instance.

    ``app_ports`` says where an app already listens or insists on listening.  With ``starts_app`` the other ports are
    assigned; without, a port nobody named is an error.  Under the boundary ``UNIX`` everything between app and
    sidecar is a socket in ``directory``, which is 0700; between sidecars it is TCP under every boundary.
    ``ingress_at`` and ``upstream_at`` are where some ports are reached, and where the app finds some upstreams,
    whatever is free: others have been told so.  With ``egress_fixed`` the way out is at ``egress_port`` or nowhere.
    """

    instance_id: str
    service: str
    version: str
    boundary: Boundary
    directory: Path
    starts_app: bool
    app_ports: Mapping[str, int] = field(default_factory=dict)
    ingress_host: str = LOOPBACK
    ingress_at: Mapping[str, Address] = field(default_factory=dict)
    upstream_at: Mapping[str, int] = field(default_factory=dict)
    egress_port: int = EGRESS_PORT
    egress_fixed: bool = False
    egress: Address | None = None
    ingress: dict[str, Address] = field(default_factory=dict)
    apps: dict[str, Address] = field(default_factory=dict)
    upstreams: dict[str, Address] = field(default_factory=dict)
    _held: list[Reservation] = field(default_factory=list)
    _listening: dict[str, Reservation] = field(default_factory=dict)

    def fit(self, view: ServiceView) -> None:
        """Give addresses to what has none yet.  A gateway's are what the intent says; it has no way out of its own.

        Raises: VST7005 (no port to be had), VST7201 (app port unknown), VST7206 (ingress address), VST2310.
        """
        if view.is_gateway:
            self._fit_gateway(view)
            return
        _check_host(self.ingress_host)
        names = {port.name for port in view.ports}
        if strangers := sorted(self.app_ports.keys() - names):
            known = ", ".join(sorted(names)) or "none"
            raise APP_PORT_UNKNOWN.error(
                f"service {view.service} has no port {', '.join(strangers)} (it has: {known})"
            )
        if self.egress is None:
            self.egress = self._way_out()
        for name in sorted(names - self.ingress.keys()):
            self.apps[name] = self._app(name)
            self.ingress[name] = self._ingress(name)
        self.fit_upstreams(view)

    def fit_upstreams(self, view: ServiceView) -> None:
        """The same for what the app calls alone.  Raises: VST7005, VST2310."""
        for upstream in view.upstreams:
            if upstream.name not in self.upstreams:
                self.upstreams[upstream.name] = self._upstream(upstream.name)

    def move(self, ingress_at: Mapping[str, Address], app_ports: Mapping[str, int]) -> None:
        """Ports are reached elsewhere from now on, or not at all; all of it or nothing.  ``fit`` afterwards.

        Raises: VST7005.
        """
        before = {name: each for name, each in self.ingress.items() if name in self.ingress_at}
        gone = [name for name, each in before.items() if ingress_at.get(name) != each]
        come: dict[str, Reservation] = {}
        try:
            for name, address in ingress_at.items():
                if self.ingress.get(name) != address:
                    come[name] = retake(address.host, address.port)
        except VestibuleError:
            for held in come.values():
                held.release()
            raise
        for name in gone:
            del self.ingress[name]
            self._listening.pop(name).release()
        self._listening.update(come)
        for name in list(self.apps):
            if name not in ingress_at or app_ports.get(name) != self.app_ports.get(name):
                del self.apps[name]
        self.ingress_at, self.app_ports = dict(ingress_at), dict(app_ports)
        for name in come:
            self.ingress[name] = ingress_at[name]
            if name not in self.apps:
                self.apps[name] = self._app(name)
        for name in self.ingress.keys() - self.apps.keys():
            self.apps[name] = self._app(name)

    def instance(self, view: ServiceView, *, reachable: bool) -> Instance:
        """What to register.  Unless it is ``reachable``, the instance has its way out and nobody's way in."""
        ports = [port.name for port in view.ports if port.name in self.ingress] if reachable else []
        return Instance(
            id=self.instance_id,
            service=self.service,
            spiffe_id=view.spiffe_id,
            agent_id=_UNTOLD,
            version=self.version,
            ingress={name: self.ingress[name] for name in ports},
            apps={name: self.apps[name] for name in ports if name in self.apps},
            egress=self.egress,
            upstreams={upstream.name: self.upstreams[upstream.name] for upstream in view.upstreams},
            boundary=self.boundary,
        )

    def environment(self, base: Mapping[str, str], view: ServiceView, agent_socket: Path) -> dict[str, str]:
        """The app's variables, upon those it inherits.

        Under the boundary ``UNIX`` there is no ``PORT`` and no proxy variable (a proxy on a Unix socket has no URL
        that clients agree on), inherited ones are removed, and addresses read ``unix:/path``.
        """
        env = {name: value for name, value in base.items() if name not in ("PORT", *_PROXY_VARIABLES)}
        env["SPIFFE_ENDPOINT_SOCKET"] = f"unix://{agent_socket}"
        env["VESTIBULE_EGRESS"] = self._url(self.egress, "http")
        env.update(self._listen_variables(view))
        env.update(self._upstream_variables(view))
        if (vault := env.get(f"VESTIBULE_UPSTREAM_{_variable(SECRETS_SERVICE)}", "")).startswith("http://"):
            # Where Vault's clients look; an app that was told another place keeps it.
            env.setdefault("VAULT_ADDR", vault)
        if self.boundary is not Boundary.UNIX:
            env["HTTP_PROXY"] = env["http_proxy"] = env["VESTIBULE_EGRESS"]
            env["NO_PROXY"] = env["no_proxy"] = _NO_PROXY
        return env

    def _fit_gateway(self, view: ServiceView) -> None:
        wanted = {port.name: port.listen for port in view.ports if port.listen is not None}
        for name in [each for each, address in self.ingress.items() if wanted.get(each) != address]:
            del self.ingress[name]
            self._listening.pop(name).release()
        for name, address in wanted.items():
            if name not in self.ingress:
                self._listening[name] = retake(address.host, address.port)
                self.ingress[name] = address

    def close(self) -> None:
        """Give every port back."""
        while self._held:
            self._held.pop().release()
        while self._listening:
            self._listening.popitem()[1].release()

    def _listen_variables(self, view: ServiceView) -> dict[str, str]:
        addresses = [(port.name, self.apps[port.name]) for port in view.ports]
        env = {f"VESTIBULE_LISTEN_{_variable(name)}": str(address) for name, address in addresses}
        if len(addresses) == 1:
            env["VESTIBULE_LISTEN"] = str(addresses[0][1])
        if addresses and self.boundary is not Boundary.UNIX:
            # The first one as the intent's file names them; most services have only one.
            env["PORT"] = str(addresses[0][1].port)
        return env

    def _upstream_variables(self, view: ServiceView) -> dict[str, str]:
        named: dict[str, list[str]] = {}
        for upstream in view.upstreams:
            name = f"VESTIBULE_UPSTREAM_{_variable(upstream.name)}"
            named.setdefault(name, []).append(self._url(self.upstreams[upstream.name], upstream.protocol))
        for name in [name for name, urls in named.items() if len(urls) > 1]:
            # "a-b" and "a/b" are one variable: sending the calls of either to the other would be worse than none.
            _log.warning("several upstreams would be %s; it is not set", name)
            del named[name]
        return {name: urls[0] for name, urls in named.items()}

    def _url(self, address: Address | None, protocol: str) -> str:
        bare = str(address)
        return f"http://{bare}" if protocol in _WEB and not bare.startswith("unix:") else bare

    def _app(self, name: str) -> Address:
        if self.boundary is Boundary.UNIX:
            if name in self.app_ports:
                raise APP_PORT_UNKNOWN.error(
                    "under the boundary unix an app listens on a socket, not on a port",
                    advice=f"Leave --app-port {name} out; the app finds its socket in VESTIBULE_LISTEN.",
                )
            return self._socket(f"app-{len(self.apps)}")
        if (port := self.app_ports.get(name)) is not None:
            return Address(host=LOOPBACK, port=port)
        if not self.starts_app:
            raise APP_PORT_UNKNOWN.error(f"where does the app listen for port {name!r}?")
        # The app binds it itself, again after each of its ends.
        return self._reserved(claim(LOOPBACK))

    def _ingress(self, name: str) -> Address:
        if (wanted := self.ingress_at.get(name)) is None:
            return self._reserved(reserve(self.ingress_host))
        if name not in self._listening:
            self._listening[name] = retake(wanted.host, wanted.port)
        return wanted

    def _way_out(self) -> Address:
        if self.egress_fixed and self.boundary is not Boundary.UNIX:
            return self._reserved(retake(LOOPBACK, self.egress_port))
        return self._local("egress", preferred=self.egress_port)

    def _upstream(self, name: str) -> Address:
        if (wanted := self.upstream_at.get(name)) is None or self.boundary is Boundary.UNIX:
            return self._local(f"up{len(self.upstreams)}")
        return self._reserved(retake(LOOPBACK, wanted))

    def _local(self, name: str, *, preferred: int = 0) -> Address:
        if self.boundary is Boundary.UNIX:
            return self._socket(name)
        return self._reserved(reserve_preferably(LOOPBACK, preferred))

    def _socket(self, name: str) -> Address:
        path = self.directory / f"{name}.sock"
        check_path(path)
        return Address(path=str(path))

    def _reserved(self, reservation: Reservation) -> Address:
        self._held.append(reservation)
        return Address(host=reservation.host, port=reservation.port)


# The agent says whose instance it is; a sidecar cannot know.
_UNTOLD: Final = SpiffeId.parse("spiffe://unknown.invalid/agent")


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _check_host(host: str) -> None:
    try:
        usable = not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        usable = False
    if not usable:
        raise BAD_ADDRESS.error(f"{host!r} is not an address to accept calls at")
