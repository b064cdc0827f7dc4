"""Istio's DestinationRule and PeerAuthentication, and Kubernetes' Service: what is said of a service as a whole."""

from __future__ import annotations

from typing import Any, Final

from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.documents import Document, Part
from vestibule.intent.importing.result import Port, Result, Service, name_of

APP_LABELS: Final = ("app", "app.kubernetes.io/name")
_PROTOCOLS: Final = {
    "http": "http",
    "http2": "http2",
    "kubernetes.io/h2c": "http2",
    "grpc": "grpc",
    "grpc-web": "http",
    "kubernetes.io/ws": "http",
}


def import_kubernetes_service(document: Document, result: Result) -> None:
    """Its ports, by which other documents name them."""
    spec = document.spec
    service = result.service(document.name, document.namespace, document.where)
    if service is not None:
        selector = spec.part("selector")
        labels = {selector.text(key) for key in APP_LABELS if selector is not None and selector.has(key)}
        service.app = labels.pop() if len(labels) == 1 else ""
        for part in spec.each("ports"):
            number = part.text("port")
            said = part.text("appProtocol") or part.text("name").partition("-")[0]
            protocol = _PROTOCOLS.get(said.lower(), "tcp")
            name = name_of(part.text("name")) or f"{protocol}-{number}"
            if (
                number.isdigit()
                and part.text("protocol") in ("", "TCP")
                and service.port(int(number)) is None
            ):
                target = part.text("targetPort") or number
                service.ports.append(
                    Port(name, int(number), protocol, int(target) if target.isdigit() else 0)
                )
    spec.take()


def import_destination_rule(document: Document, result: Result) -> None:
    """Versions by their subsets, and what bounds calls."""
    spec = document.spec
    service = result.service(spec.text("host"), document.namespace, document.where)
    if service is None:
        message = f"{spec.text('host')[:80]!r} is not the name of one service of the mesh"
        result.report.add(codes.NOT_CARRIED, message, spec.where)
        spec.take()
        return
    for subset in spec.each("subsets"):
        labels = subset.part("labels")
        version = (labels.text("version") if labels is not None else "") or subset.text("name")
        service.subsets[subset.text("name")] = version
        if version not in service.versions:
            service.versions.append(version)
    if (policy := spec.part("trafficPolicy")) is not None:
        _bounds(service, policy)
        if (tls := policy.part("tls")) is not None:
            if tls.text("mode") in ("", "ISTIO_MUTUAL"):
                tls.take()
            else:
                message = f"tls mode {tls.text('mode')[:40]}: inside the mesh calls always use mutual TLS"
                result.report.add(codes.NOT_CARRIED, message, tls.where)
                tls.take()


def _bounds(service: Service, policy: Part) -> None:
    pool = policy.part("connectionPool")
    circuit: dict[str, Any] = {}
    if pool is not None:
        tcp, http = pool.part("tcp"), pool.part("http")
        for key, part, theirs in (
            ("connections", tcp, "maxConnections"),
            ("pending", http, "http1MaxPendingRequests"),
            ("requests", http, "http2MaxRequests"),
        ):
            if part is not None and (number := part.text(theirs)).isdigit() and 0 < int(number) <= 1_000_000:
                circuit[key] = int(number)
        if circuit:
            service.settings["circuit_limits"] = (circuit, pool.where)
    if (outlier := policy.part("outlierDetection")) is not None:
        said: dict[str, Any] = {}
        number = outlier.text("consecutive5xxErrors") or outlier.text("consecutiveGatewayErrors")
        if number.isdigit() and 0 < int(number) <= 1000:
            said["consecutive"] = int(number)
        for ours, theirs in (("interval", "interval"), ("eject_for", "baseEjectionTime")):
            if found := patterns.duration(outlier.text(theirs)):
                said[ours] = found
        percent = outlier.text("maxEjectionPercent")
        if percent.isdigit() and 0 < int(percent) <= 100:
            said["most"] = f"{percent}%"
        if said:
            service.settings["outlier_detection"] = (said, outlier.where)


def import_peer_authentication(document: Document, result: Result) -> None:
    """Mutual TLS is always asked for; plain text has an end and rules of its own, which nobody can guess."""
    spec = document.spec
    modes = [(spec.part("mtls"), "")]
    if (ports := spec.part("portLevelMtls")) is not None:
        modes += [(ports.part(each), f" at port {each}") for each in ports.said_keys()]
    for part, where in modes:
        mode = part.text("mode") if part is not None else ""
        if part is not None and mode in ("PERMISSIVE", "DISABLE"):
            message = (
                f"{document.title}: {mode}{where} is not carried over, mutual TLS is asked for; `mtls` with "
                "permissive_until and the rules for plain text says when it is not"
            )
            result.report.add(codes.NARROWED, message, part.where)
    spec.take()
