"""A lone sidecar's file as its layout sees it: the ports, the upstreams, and where each of them is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vestibule.errors import VestibuleError
from vestibule.intent.lone import Lone
from vestibule.proxy.codes import APP_PORT_UNKNOWN, OTHER_KIND
from vestibule.proxy.layout import EGRESS_PORT, Layout
from vestibule.records import Address, Boundary, PortView, ServiceView, UpstreamView


def view_of(lone: Lone) -> ServiceView:
    """What a server would tell a sidecar of its service."""
    mesh = lone.intent.mesh
    return ServiceView(
        service=lone.name,
        spiffe_id=lone.identity,
        ports=tuple(
            PortView(name=name, protocol=port.protocol.value)
            for name, port in sorted(lone.service.ports.items())
        ),
        upstreams=tuple(sorted(_upstreams(lone), key=lambda each: each.name)),
        intent_version=lone.intent.version,
        mesh=mesh.name,
        environment=mesh.environment,
    )


def layout_of(
    lone: Lone, *, instance_id: str, directory: Path, boundary: Boundary, starts_app: bool
) -> Layout:
    """The addresses that the file says; the others are chosen.  Raises: VST7201."""
    return Layout(
        instance_id=instance_id,
        service=lone.name,
        version="v1",
        boundary=boundary,
        directory=directory,
        starts_app=starts_app,
        app_ports=app_ports(lone, starts_app=starts_app),
        ingress_at=ingress_at(lone),
        upstream_at=upstream_at(lone),
        egress_port=lone.egress_port or EGRESS_PORT,
        egress_fixed=lone.egress_port is not None,
    )


def moved(layout: Layout, before: Lone, now: Lone, *, starts_app: bool) -> None:
    """Lay out what the file says otherwise.  Raises: VST7224, VST7201, VST7005; then nothing is changed."""
    if now.name != before.name:
        raise OTHER_KIND.error(
            f"the file is of {now.name} now, and this sidecar stands beside {before.name}",
            advice="Start another sidecar for another service.",
        )
    ports = app_ports(now, starts_app=starts_app)
    before_at, layout.upstream_at = layout.upstream_at, upstream_at(now)
    try:
        layout.fit_upstreams(view_of(now))
        layout.move(ingress_at(now), ports)
    except VestibuleError:
        layout.upstream_at = before_at
        raise


def ingress_at(lone: Lone) -> dict[str, Address]:
    """Where others reach the ports."""
    return {name: Address(host=each.host, port=each.port) for name, each in lone.listen.items()}


def upstream_at(lone: Lone) -> dict[str, int]:
    """Where the app is told to find some of what it calls."""
    said = {each.name: each.listen for each in lone.upstreams}
    said |= {each.name: each.listen for each in lone.outlets}
    return {name: port for name, port in said.items() if port is not None}


def app_ports(lone: Lone, *, starts_app: bool) -> dict[str, int]:
    """Where the app listens.  Raises: VST7201 for a port that says nothing of that, where no app is started."""
    found = {name: port.app_port for name, port in lone.service.ports.items()}
    silent = sorted(name for name, port in found.items() if port is None)
    if silent and not starts_app:
        raise APP_PORT_UNKNOWN.error(
            f"where does the app listen for port {silent[0]!r}?",
            advice=f"Write it in {lone.file}: ports: {{{silent[0]}: {{app: 8080, …}}}}; or let the sidecar start it.",
        )
    return {name: port for name, port in found.items() if port is not None}


def _upstreams(lone: Lone) -> Iterator[UpstreamView]:
    for each in lone.upstreams:
        port = lone.intent.services[each.name].ports[each.port]
        yield UpstreamView(name=each.name, service=each.name, port=each.port, protocol=port.protocol.value)
    for external in lone.intent.externals.values():
        if external.allow:
            yield UpstreamView(
                name=external.name,
                service=f"external:{external.name}",
                port="",
                protocol=external.protocol.value,
            )
