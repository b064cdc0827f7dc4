"""Outside hosts that services may call, from ``egress/NAME.yaml`` to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vestibule.intent import bounds_keys, codes, outside_keys, service_keys, traffic_keys
from vestibule.intent.bounds import build_limit
from vestibule.intent.certificates import read_certificates
from vestibule.intent.granting import build_outside_rules
from vestibule.intent.model import Defaults, Protocol
from vestibule.intent.nodes import START
from vestibule.intent.outside import External, OutsideProtocol, OutsideTls
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names
from vestibule.intent.retries import check_conditions, check_tries, possible_methods, warn_of_repeats
from vestibule.intent.shapes import At, Fields
from vestibule.intent.traffic import RateLimit, Traffic
from vestibule.policy import Rule

_HTTP_KEYS: Final = (
    outside_keys.CREDENTIAL,
    traffic_keys.TIMEOUT,
    traffic_keys.RETRY,
    outside_keys.OUTSIDE_LIMITS,
)


def build_external(
    name: str,
    fields: Fields,
    names: Names,
    defaults: Defaults,
    files: Mapping[str, bytes],
    findings: Findings,
) -> External | None:
    """An external; None if it has no hosts, for which a problem has been noted."""
    spoken = fields.value(outside_keys.OUTSIDE_PROTOCOL, OutsideProtocol.HTTP)
    protocol = Protocol(spoken.value)
    allow = build_outside_rules(name, fields, protocol, names, findings)
    _refuse_on_tcp(fields, protocol, findings)
    traffic = _traffic(fields, protocol, allow, defaults, findings)
    tls, ca, sni = _tls(fields, files, findings)
    credential = fields.get(outside_keys.CREDENTIAL)
    if credential and tls is OutsideTls.NONE:
        message = "the credential would travel in plain text"
        findings.add(codes.CREDENTIAL_IN_PLAIN_TEXT, message, credential.at)
    hosts, addresses = fields.get(outside_keys.HOSTS), fields.get(outside_keys.ADDRESSES)
    if hosts is None:
        return None
    return External(
        name=name,
        hosts=tuple(each.value for each in hosts.value),
        addresses=tuple(each.value for each in addresses.value) if addresses else (),
        protocol=spoken,
        tls=tls,
        ca=ca,
        sni=sni,
        allow=allow,
        credential=credential.value if credential else None,
        traffic=traffic,
        owner=fields.value(service_keys.OWNER, None),
        where=findings.where(START),
    )


def _tls(
    fields: Fields, files: Mapping[str, bytes], findings: Findings
) -> tuple[OutsideTls, str | None, str | None]:
    said = fields.value(outside_keys.TLS, OutsideTls.WEBPKI)
    if isinstance(said, OutsideTls):
        return said, None, None
    ca = said.get(outside_keys.CA)
    pem = read_certificates(ca, files, findings) if ca else None
    return OutsideTls.WEBPKI, pem, said.value(outside_keys.SNI, None)


def _refuse_on_tcp(fields: Fields, protocol: Protocol, findings: Findings) -> None:
    if protocol.is_http:
        return
    for key in _HTTP_KEYS:
        if place := fields.place(key):
            message = f"TCP is spoken there, where {key.name} means nothing"
            findings.add(codes.HTTP_ON_TCP, message, place)
    circuit = fields.get(bounds_keys.CIRCUIT)
    if circuit and (circuit.value.requests or circuit.value.budget):
        message = "TCP is spoken there, where requests and retry_budget mean nothing"
        findings.add(codes.HTTP_ON_TCP, message, circuit.at)


def _traffic(
    fields: Fields, protocol: Protocol, allow: tuple[Rule, ...], defaults: Defaults, findings: Findings
) -> Traffic:
    retry, timeout = fields.get(traffic_keys.RETRY), fields.get(traffic_keys.TIMEOUT)
    standing = None if protocol.lasts else defaults.timeout
    longest = timeout.value if timeout else standing
    if protocol.is_http and (said := retry or timeout):
        check_tries(retry.value if retry else defaults.retry, longest, said.at, findings)
    if protocol.is_http and retry:
        check_conditions(retry.value, (protocol,), retry.at, findings)
        methods = possible_methods(allow)
        if methods is not None:
            warn_of_repeats(retry.value, methods, protocol, retry.at, findings)
    return Traffic(
        timeout=timeout.value if timeout else None,
        retry=retry.value if retry else None,
        circuit=fields.value(bounds_keys.CIRCUIT, None),
        outlier=fields.value(bounds_keys.OUTLIER, None),
        limits=_limits(fields, findings),
    )


def _limits(fields: Fields, findings: Findings) -> tuple[RateLimit, ...]:
    listed = fields.get(outside_keys.OUTSIDE_LIMITS)
    limits: list[RateLimit] = []
    seen: dict[str, At[Fields]] = {}
    for item in listed.value if listed else ():
        limit = build_limit(item, {}, findings)
        first = seen.setdefault(str(limit.path) if limit else "", item)
        if limit and first.at != item.at:
            message = f"line {first.at.line} limits the same requests"
            findings.add(codes.DUPLICATE_ITEM, message, item.at, advice="Keep the one that is meant.")
        if limit:
            limits.append(limit)
    return tuple(limits)
