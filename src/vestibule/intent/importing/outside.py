"""Istio's ServiceEntry as hosts outside the mesh.  Nobody may call them until a rule says so."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from vestibule.intent.importing import codes
from vestibule.intent.importing.documents import Document
from vestibule.intent.importing.result import File, Result, name_of

_PROTOCOLS: Final = {
    "HTTP": ("http", "none"),
    "HTTP2": ("http2", "none"),
    "GRPC": ("grpc", "none"),
    "HTTPS": ("http", "webpki"),
    "TLS": ("tcp", "none"),
    "TCP": ("tcp", "none"),
}
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")


def import_service_entry(document: Document, result: Result) -> None:
    """One external for each host and port."""
    spec = document.spec
    if spec.text("location") == "MESH_INTERNAL":
        message = f"{document.title}: it is inside the mesh; give it a file in services/ and a sidecar"
        result.report.add(codes.NOT_CARRIED, message, spec.where)
        spec.take()
        return
    ports = spec.each("ports")
    addresses = [each.text("address") for each in spec.each("endpoints")]
    addresses = [each for each in addresses if _is_ip(each)]
    for host in spec.each("hosts"):
        if not _HOST.fullmatch(host.said):
            message = f"{host.said[:80]!r} is no name of one host; each host is named"
            result.report.add(codes.NOT_CARRIED, message, host.where)
            continue
        for port in ports:
            number, protocol = port.text("number"), port.text("protocol").upper() or "TCP"
            name = name_of(host.said if len(ports) == 1 else f"{host.said}-{number}")
            if protocol not in _PROTOCOLS or not number.isdigit() or not name:
                result.report.add(codes.NOT_CARRIED, f"a port of {protocol[:40]} at {host.said}", port.where)
                continue
            if name in result.services or name in result.externals:
                result.report.add(codes.NOT_CARRIED, f"the name {name} is taken", host.where)
                continue
            speaks, tls = _PROTOCOLS[protocol]
            said: dict[str, Any] = {
                "external": name, "hosts": [f"{host.said}:{number}"], "protocol": speaks, "tls": tls,
            }  # fmt: skip
            if addresses:
                said["addresses"] = [
                    f"[{each}]:{number}" if ":" in each else f"{each}:{number}" for each in addresses
                ]
            made = result.externals[name] = File(f"egress/{name}.yaml", host.where)
            for key, value in {**said, "allow": []}.items():
                made.put(key, value, host.where)
            message = (
                f"nobody may call {host.said} until a rule in {made.name} says so; before, everybody could"
            )
            result.report.add(codes.NARROWED, message, host.where)
            if protocol == "HTTPS":
                message = f"the sidecar speaks TLS to {host.said}: apps call http://{name}"
                result.report.add(codes.ASSUMED, message, port.where)
            port.text("name")
            port.text("targetPort")
    spec.text("resolution")
    spec.text("location")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
