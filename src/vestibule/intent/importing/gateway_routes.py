"""Gateway API's HTTPRoute and GRPCRoute whose parent is a Service (GAMMA), as routes of that service."""

from __future__ import annotations

from typing import Any

from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.documents import Document, Part
from vestibule.intent.importing.matching import NoSuchMatch, gateway_match
from vestibule.intent.importing.result import Item, Result, Service, name_of
from vestibule.intent.importing.weights import in_hundredths


def import_route(document: Document, result: Result) -> None:
    """Each of its rules, once for each parent that is a service."""
    spec = document.spec
    protocol = "grpc" if document.kind == "GRPCRoute" else "http"
    parents = spec.each("parentRefs")
    services: list[tuple[Service, str]] = []
    for parent in parents:
        kind, name = parent.text("kind") or "Gateway", parent.text("name")
        space = parent.text("namespace") or document.namespace
        known = result.service(name, space, parent.where) if kind == "Service" else None
        if known is None:
            message = f"{document.title}: its parent, the {kind} {name[:60]!r}, is no service; write gateways/NAME.yaml"
            result.report.add(codes.NOT_CARRIED, message, parent.where)
            parent.take()
            continue
        port = parent.text("port")
        named = result.assume_port(known, int(port), protocol, parent.where).name if port.isdigit() else ""
        parent.take()
        services.append((known, named))
    if not services:
        spec.take()
        return
    for service, port in services:
        for number, part in enumerate(spec.each("rules")):
            _rule(document, service, port, part, number, result)


def _rule(document: Document, service: Service, port: str, part: Part, number: int, result: Result) -> None:
    protocol = "grpc" if document.kind == "GRPCRoute" else "http"
    try:
        said = _said(service, document, part, protocol, result)
        matches: list[Part | None] = [*part.each("matches")] or [None]
        for index, match in enumerate(matches):
            base = name_of(part.text("name") or f"{document.name}-{number + 1}") or f"route-{number + 1}"
            value: dict[str, Any] = {"id": base if len(matches) == 1 else f"{base[:58]}-{index + 1}"}
            if port:
                value["port"] = port
            if match is not None and (found := gateway_match(match)):
                value["match"] = found
            service.routes.append(Item({**value, **said}, part.where))
    except NoSuchMatch as why:
        message = f"{document.title}: a rule is left out, since it has {why}, which cannot be expressed"
        result.report.add(codes.NOT_CARRIED, message, part.where)
        part.take()


def _said(service: Service, document: Document, part: Part, protocol: str, result: Result) -> dict[str, Any]:
    said: dict[str, Any] = {}
    kinds = {_kind(each) for each in part.each("matches")} or {"PathPrefix"}
    for each in part.each("filters"):
        kind = each.text("type")
        if kind == "RequestRedirect" and (redirect := each.part("requestRedirect")) is not None:
            return {"redirect": _redirect(redirect, kinds)}
        if kind == "URLRewrite" and (rewrite := each.part("urlRewrite")) is not None:
            said["rewrite"] = _place(rewrite, kinds)
        else:
            result.report.add(codes.NOT_CARRIED, f"the filter {kind[:60]} has no counterpart", each.where)
            each.take()
    shares = _shares(service, document, part, protocol, result)
    if shares:
        service.versions += [each for each in shares if each not in service.versions]
        said["split"] = in_hundredths(shares)
    if (timeouts := part.part("timeouts")) is not None and (
        found := patterns.duration(timeouts.text("request"))
    ):
        said["timeout"] = found
    return said


def _shares(
    service: Service, document: Document, part: Part, protocol: str, result: Result
) -> dict[str, int]:
    """Backends are services of their own there; ``web-v2`` beside ``web`` is its version here."""
    shares: dict[str, int] = {}
    backends = part.each("backendRefs")
    for each in backends:
        name, weight = each.text("name"), each.text("weight")
        if (each.text("namespace") or document.namespace) != service.namespace:
            raise NoSuchMatch("a backend of another namespace")
        if each.text("port").isdigit() and len(backends) == 1 and name == service.name:
            result.assume_port(service, int(each.text("port")), protocol, each.where)
        if name == service.name and len(backends) == 1:
            return {}
        version = name.removeprefix(f"{service.name}-")
        if version == name or not version:
            raise NoSuchMatch(f"a backend that is another service, {name[:60]!r}")
        result.report.add(codes.ASSUMED, f"{name} is the version {version} of {service.name}", each.where)
        shares[version] = shares.get(version, 0) + (int(weight) if weight.isdigit() else 1)
        each.text("port")
        each.text("kind")
        each.text("group")
    if shares and not sum(shares.values()):
        raise NoSuchMatch("no backend that gets any requests")
    return shares


def _kind(match: Part) -> str:
    path = match.part("path")
    return (path.text("type") if path is not None else "") or "PathPrefix"


def _place(part: Part, kinds: set[str]) -> dict[str, Any]:
    """``kinds`` are those of the paths that are matched: what takes the place of a part of one must fit to all."""
    said: dict[str, Any] = {}
    if host := part.text("hostname"):
        said["host"] = host
    if (path := part.part("path")) is not None:
        new = path.text("replacePrefixMatch") or path.text("replaceFullPath")
        fitting = {"Exact"} if path.has("replaceFullPath") else {"PathPrefix"}
        path.text("type")
        if not new or kinds != fitting:
            raise NoSuchMatch("a new path that does not fit to the paths that are matched")
        said["path"] = new.rstrip("/") or "/"
    if not said:
        raise NoSuchMatch("a rewrite that says nothing")
    return said


def _redirect(part: Part, kinds: set[str]) -> dict[str, Any]:
    if part.has("port") or (part.text("statusCode") or "302") not in ("301", "302", "303", "307", "308"):
        raise NoSuchMatch("a redirect to a port, or with such a status")
    said = _place(part, kinds) if part.has("hostname") or part.has("path") else {}
    if part.text("scheme") == "https":
        said["https"] = True
    if not said:
        raise NoSuchMatch("a redirect that leads nowhere else")
    return {**said, "status": int(part.text("statusCode") or "302")}
