"""Services, put together from their parts."""

from __future__ import annotations

from types import MappingProxyType

from vestibule.intent import service_keys
from vestibule.intent.granting import build_rules
from vestibule.intent.model import Defaults, DenyDetail, Service
from vestibule.intent.nodes import START
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names
from vestibule.intent.shapes import Fields
from vestibule.intent.traffic_building import build_traffic


def build_service(
    name: str, fields: Fields, names: Names, defaults: Defaults, findings: Findings
) -> Service | None:
    """A service; None if it has no identity, for which a problem has been noted elsewhere."""
    ports = names.ports.get(name) or {}
    rules = build_rules(name, fields, ports, names, findings)
    traffic = build_traffic(name, fields, ports, names, defaults, rules.allow, findings)
    spiffe_id = names.services.get(name)
    if spiffe_id is None:
        return None
    owner, labels = fields.get(service_keys.OWNER), fields.get(service_keys.LABELS)
    written = {key: label.value for key, (_, label) in labels.value.items() if label} if labels else {}
    return Service(
        name=name,
        spiffe_id=spiffe_id,
        owner=owner.value if owner else None,
        labels=MappingProxyType(written),
        ports=MappingProxyType({port: found for port, found in ports.items() if found}),
        allow=rules.allow,
        deny=rules.deny,
        deny_detail=fields.value(service_keys.DENY_DETAIL, DenyDetail.CODE),
        traffic=traffic,
        where=findings.where(START),
    )
