"""A compiled proxy without a control plane: all that it would be told, in files, with secrets inline.

For trying a policy on a real Envoy.  Only the way in is kept: listeners, their routes and their filters.  In the place
of the app stands Envoy itself, which answers 200, or on TCP ports what it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format

from vestibule.envoy import rbac
from vestibule.envoy.protos import serialized
from vestibule.xds.resources import EXTENSION, LISTENER, ROUTES, Resource, Snapshot

NUMBER_HEADER: Final = "x-vestibule-trial"
"""The header by which a request is found again in the log."""

_TYPES: Final = "type.googleapis.com/envoy.extensions"
_WAY_IN: Final = "ingress/"
_RBAC: Final = "%DYNAMIC_METADATA(envoy.filters.http.rbac:{}{})%"
LOGGED: Final = {
    "number": f"%REQ({NUMBER_HEADER})%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "rule": _RBAC.format("", "enforced_effective_policy_id"),
    "shadow": _RBAC.format(rbac.SHADOW_PREFIX, "shadow_engine_result"),
}
"""What the log says of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """A bootstrap, as JSON has it, and the files that it refers to, by name."""

    bootstrap: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


def offline(snapshot: Snapshot, *, svid: bytes, bundle: bytes, directory: str, log: str) -> Offline:
    """The way in of a proxy.  ``svid`` and ``bundle`` are serialised secrets, ``directory`` is where files will be."""
    made = _Files(snapshot, directory, log, _secret(svid), _secret(bundle))
    listeners = [
        made.rewritten(_document(each))
        for name, each in sorted(snapshot.of_type(LISTENER).items())
        if name.startswith(_WAY_IN)
    ]
    bootstrap = {
        "node": {"id": "trial", "cluster": "trial"},
        "static_resources": {"listeners": listeners},
    }
    return Offline(bootstrap=bootstrap, files=made.files)


class _Files:
    """Puts files in the place of streams, and secrets in the place of names."""

    def __init__(
        self,
        snapshot: Snapshot,
        directory: str,
        log: str,
        svid: Mapping[str, Any],
        bundle: Mapping[str, Any],
    ) -> None:
        self._snapshot = snapshot
        self._directory = directory
        self._log = log
        self._svid = svid
        self._bundle = bundle
        self.files: dict[str, bytes] = {}

    def rewritten(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.rewritten(each) for each in value]
        if not isinstance(value, dict):
            return value
        found = {key: self.rewritten(each) for key, each in value.items() if key != "access_log"}
        kind = value.get("@type", "")
        if kind.endswith(".TcpProxy"):
            return {"@type": f"{_TYPES}.filters.network.echo.v3.Echo"}
        if kind.endswith(".HttpConnectionManager"):
            found["access_log"] = [self._logging()]
        if "rds" in found:
            name = value["rds"]["route_config_name"]
            found["rds"] = {"route_config_name": name, "config_source": self._file(ROUTES, name)}
        if "config_discovery" in found:
            found["config_discovery"]["config_source"] = self._file(EXTENSION, value["name"])
        if "tls_certificate_sds_secret_configs" in found:
            del found["tls_certificate_sds_secret_configs"], found["combined_validation_context"]
            found["tls_certificates"] = [self._svid["tls_certificate"]]
            found["validation_context"] = self._bundle["validation_context"]
        return found

    def _file(self, type_url: str, name: str) -> dict[str, Any]:
        """As bytes: not everything that Envoy knows has a form in JSON that we know."""
        file = f"{len(self.files)}.pb"
        body = self._snapshot.of_type(type_url)[name].body
        if type_url == ROUTES:
            body = _answered(body)
        response = discovery_pb2.DiscoveryResponse(version_info="1", type_url=type_url)
        response.resources.add(type_url=type_url, value=body)
        self.files[file] = serialized(response)
        return {
            "path_config_source": {"path": f"{self._directory}/{file}"},
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
        }

    def _logging(self) -> dict[str, Any]:
        kind = f"{_TYPES}.access_loggers.file.v3.FileAccessLog"
        config = {"@type": kind, "path": self._log, "log_format": {"json_format": LOGGED}}
        return {"name": "log", "typed_config": config}


def _answered(body: bytes) -> bytes:
    """Routes that answer by themselves."""
    config = route_pb2.RouteConfiguration.FromString(body)
    for host in config.virtual_hosts:
        for route in host.routes:
            route.direct_response.status = 200
    return serialized(config)


def _document(resource: Resource) -> dict[str, Any]:
    packed = any_pb2.Any(type_url=resource.type_url, value=resource.body)
    found: dict[str, Any] = json_format.MessageToDict(packed, preserving_proto_field_name=True)
    del found["@type"]
    return found


def _secret(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(
        secret_pb2.Secret.FromString(body), preserving_proto_field_name=True
    )
    return found
