"""From documents to files of an intent that our own validator accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from vestibule.errors import Where
from vestibule.intent.importing import codes
from vestibule.intent.importing.authorization import ROOT, import_authorization, known_targets
from vestibule.intent.importing.documents import Document, read
from vestibule.intent.importing.gateway_routes import import_route
from vestibule.intent.importing.istio_routes import import_virtual_service
from vestibule.intent.importing.mending import mend
from vestibule.intent.importing.outside import import_service_entry
from vestibule.intent.importing.result import File, Item, Port, Result, Service
from vestibule.intent.importing.settings import (
    import_destination_rule,
    import_kubernetes_service,
    import_peer_authentication,
)
from vestibule.intent.problems import Problem


class Source(Enum):
    """Whose documents are read."""

    ISTIO = "istio"
    GATEWAY_API = "gateway-api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The files by their names below the intent's directory, and what there is to tell.

    Without files if a document cannot be read: it might have denied something.
    """

    files: MappingProxyType[str, str]
    problems: tuple[Problem, ...]


_Importer = Callable[[Document, Result], None]
# In this order: services and their versions first, then what speaks of them.
_ISTIO: Final[tuple[tuple[str, str, _Importer], ...]] = (
    ("Service", "", import_kubernetes_service),
    ("DestinationRule", "networking.istio.io", import_destination_rule),
    ("VirtualService", "networking.istio.io", import_virtual_service),
    ("ServiceEntry", "networking.istio.io", import_service_entry),
    ("PeerAuthentication", "security.istio.io", import_peer_authentication),
)
_GATEWAY_API: Final[tuple[tuple[str, str, _Importer], ...]] = (
    ("Service", "", import_kubernetes_service),
    ("HTTPRoute", "gateway.networking.k8s.io", import_route),
    ("GRPCRoute", "gateway.networking.k8s.io", import_route),
)
_SECURITY: Final = "security.istio.io"
_POLICIES: Final = ("AuthorizationPolicy", "RequestAuthentication")


def import_documents(
    source: Source,
    files: Iterable[tuple[str, str]],
    *,
    mesh: str = "imported",
    trust_domain: str = "cluster.local",
    environment: str | None = None,
) -> Imported:
    """Read texts by file name.  ``environment`` is the namespace that is imported: the only one, if it is None.

    Identities are ``/ns/NAMESPACE/sa/SERVICE-ACCOUNT`` as in Istio.
    """
    result = Result(trust_domain, environment or "default")
    documents = read(files, result.report)
    spaces = {each.namespace for each in documents if each.namespace != ROOT}
    if environment is None and len(spaces) == 1:
        result.environment = spaces.pop()
    if result.report.failed:
        return Imported(files=MappingProxyType({}), problems=result.report.sorted())
    importers = _ISTIO if source is Source.ISTIO else _GATEWAY_API
    known = {(kind, group) for kind, group, _ in importers}
    if source is Source.ISTIO:
        known |= {(each, _SECURITY) for each in _POLICIES}
    for document in documents:
        if (document.kind, document.group) not in known:
            message = (
                f"{document.title} ({document.group or 'core'}) is not read by the importer of {source.value}"
            )
            result.report.add(codes.NOT_CARRIED, message, document.where)
            document.spec.take()
    documents = [each for each in documents if (each.kind, each.group) in known]
    for kind, _, importer in importers:
        for document in [each for each in documents if each.kind == kind]:
            importer(document, result)
    known_targets(documents, result)
    for service in [each for each in result.services.values() if each.namespace != result.environment]:
        # It would get the identity of its namesake here, and with it what is allowed to that one.
        del result.services[service.name]
        message = f"{service.name} is of the namespace {service.namespace}; import that one by itself (--environment)"
        result.report.add(codes.NOT_CARRIED, message, service.where)
    for service in result.services.values():
        _complete(service, result)
    import_authorization(documents, result)
    for document in documents:
        for name, where in document.root.unread():
            message = f"{document.title}: {name[:120]} has no counterpart"
            result.report.add(codes.NOT_CARRIED, message, where)
    for service in result.services.values():
        _tell_of_silence(service, result, source)
    made = [
        _mesh_file(mesh, result),
        *map(_service_file, result.services.values()),
        *result.externals.values(),
    ]
    texts = mend(made, result.report) if result.services else {}
    return Imported(files=MappingProxyType(texts), problems=result.report.sorted())


def _complete(service: Service, result: Result) -> None:
    if not service.ports:
        service.ports.append(Port("http", 0, "http"))
        message = f"{service.name} has one port, http, since no document says which it has"
        result.report.add(codes.ASSUMED, message, service.where)
    if len(service.ports) > 1:
        # A route without a port is for the first that speaks HTTP.
        first = next((each.name for each in service.ports if each.protocol != "tcp"), service.ports[0].name)
        service.routes = [
            Item({"id": each.value["id"], "port": first, **each.value}, each.where) for each in service.routes
        ]


def _tell_of_silence(service: Service, result: Result, source: Source) -> None:
    if not service.spoken_of:
        who = (
            "no AuthorizationPolicy allows it"
            if source is Source.ISTIO
            else "Gateway API has no authorization"
        )
        message = f"nobody may call {service.name} until a rule says so: {who}, where anybody could call"
        result.report.add(codes.NARROWED, message, service.where)


def _mesh_file(mesh: str, result: Result) -> File:
    where = Where(file="mesh.yaml")
    made = File("mesh.yaml", where)
    made.put("mesh", mesh, where)
    made.put("trust_domain", result.trust_domain, where)
    made.put("environment", result.environment, where)
    made.put("identity", "/ns/{environment}/sa/{service}", where)
    return made


def _service_file(service: Service) -> File:
    made = File(f"services/{service.name}.yaml", service.where)
    made.put("service", service.name, service.where)
    made.put("ports", {each.name: {"protocol": each.protocol} for each in service.ports}, service.where)
    if service.versions:
        made.put("versions", service.versions, service.where)
    for key, (value, where) in service.settings.items():
        made.put(key, value, where)
    made.put("allow", service.rules or [], service.where)
    if service.denials:
        made.put("deny", service.denials, service.where)
    if service.routes:
        made.put("routes", service.routes, service.where)
    return made
