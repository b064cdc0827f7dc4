"""How calls to a service travel, from its file to the model."""

from __future__ import annotations

from vestibule.intent import bounds_keys, codes, traffic_keys
from vestibule.intent.bounds import build_health, build_limits, build_permissive
from vestibule.intent.model import Defaults
from vestibule.intent.ports import Ports
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names
from vestibule.intent.retries import check_conditions, check_tries, possible_methods, warn_of_repeats
from vestibule.intent.routes import Surroundings, build_routes
from vestibule.intent.shapes import Fields
from vestibule.intent.traffic import Traffic
from vestibule.policy import Rule


def build_traffic(
    service: str,
    fields: Fields,
    ports: Ports,
    names: Names,
    defaults: Defaults,
    allow: tuple[Rule, ...],
    findings: Findings,
) -> Traffic:
    """All that a service says about calls to it; what is in error is left out."""
    _refuse_without_ports(fields, ports, findings)
    versions = fields.get(traffic_keys.VERSIONS)
    around = Surroundings(
        service=service,
        ports=ports,
        names=names,
        versions=tuple(each.value for each in versions.value) if versions else (),
        versions_known=versions is None or versions.whole,
        timeout=fields.value(traffic_keys.TIMEOUT, None),
        retry=fields.value(traffic_keys.RETRY, None),
        defaults=defaults,
        allow=allow,
    )
    _check_retry(fields, around, findings)
    return Traffic(
        versions=around.versions,
        routes=build_routes(fields, around, findings),
        timeout=around.timeout,
        retry=around.retry,
        health=build_health(fields, ports, findings),
        circuit=fields.value(bounds_keys.CIRCUIT, None),
        outlier=fields.value(bounds_keys.OUTLIER, None),
        limits=build_limits(fields, ports, findings),
        locality=fields.value(bounds_keys.LOCALITY, None),
        permissive=build_permissive(service, fields, ports, findings),
    )


def _refuse_without_ports(fields: Fields, ports: Ports, findings: Findings) -> None:
    """What nobody can call needs no bounds, and TCP has no requests for them."""
    for key in (*traffic_keys.SERVICE_KEYS, *bounds_keys.SERVICE_KEYS):
        if not ports and (place := fields.place(key)):
            message = f"the service has no ports, so that {key.name} means nothing"
            findings.add(codes.NO_EFFECT, message, place)
    if not ports or any(port is None or port.protocol.is_http for port in ports.values()):
        return
    for key in (traffic_keys.TIMEOUT, traffic_keys.RETRY, bounds_keys.LIMITS):
        if place := fields.place(key):
            message = f"the service speaks TCP only, where {key.name} means nothing"
            findings.add(codes.HTTP_ON_TCP, message, place)
    circuit = fields.get(bounds_keys.CIRCUIT)
    if circuit and (circuit.value.requests or circuit.value.budget):
        message = "the service speaks TCP only, where requests and retry_budget mean nothing"
        findings.add(codes.HTTP_ON_TCP, message, circuit.at)


def _check_retry(fields: Fields, around: Surroundings, findings: Findings) -> None:
    retry, timeout = fields.get(traffic_keys.RETRY), fields.get(traffic_keys.TIMEOUT)
    bounds = [around.effective_timeout(port.protocol) for port in around.http_ports]
    bounded = next((each for each in bounds if each is not None), None)
    if said := retry or timeout:
        check_tries(around.effective_retry, bounded, said.at, findings)
    if not retry:
        return
    check_conditions(retry.value, around.protocols, retry.at, findings)
    for port in around.http_ports:
        methods = possible_methods(rule for rule in around.allow if rule.port == port.name)
        if methods is not None:
            before = findings.count
            warn_of_repeats(retry.value, methods, port.protocol, retry.at, findings)
            if findings.count > before:
                return
