"""Istio's VirtualService as routes of the services that it is for."""

from __future__ import annotations

import re
from typing import Any, Final

from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.documents import Document, Part
from vestibule.intent.importing.matching import NoSuchMatch, istio_match
from vestibule.intent.importing.result import Item, Result, Service, name_of
from vestibule.intent.importing.weights import in_hundredths
from vestibule.intent.traffic import RetryOn

_RETRY_WORDS: Final = {each.value for each in RetryOn}
_STATUS: Final = re.compile("[45][0-9][0-9]")
_REDIRECTS: Final = ("301", "302", "303", "307", "308")


def import_virtual_service(document: Document, result: Result) -> None:
    """Each of its HTTP routes, once for each host that is a service."""
    spec = document.spec
    gateways = spec.texts("gateways")
    if gateways and "mesh" not in gateways:
        message = f"{document.title} is for gateways: {', '.join(gateways)[:80]}; write gateways/NAME.yaml"
        result.report.add(codes.NOT_CARRIED, message, spec.where)
        spec.take()
        return
    if any(each != "mesh" for each in gateways):
        result.report.add(codes.NOT_CARRIED, "its gateways are not carried over, only the mesh", spec.where)
    for host in spec.each("hosts"):
        service = result.service(host.said, document.namespace, document.where)
        if service is None:
            message = f"{host.said[:80]!r} is not the name of one service of the mesh"
            result.report.add(codes.NOT_CARRIED, message, host.where)
            continue
        for number, part in enumerate(spec.each("http")):
            _route(document, service, part, number, result)


def _route(document: Document, service: Service, part: Part, number: int, result: Result) -> None:
    matches: list[Part | None] = [*part.each("match")] or [None]
    try:
        said, port = _said(service, document, part, result)
        for index, match in enumerate(matches):
            base = name_of(part.text("name") or f"{document.name}-{number + 1}") or f"route-{number + 1}"
            route_id = base if len(matches) == 1 else f"{base[:58]}-{index + 1}"
            value: dict[str, Any] = {"id": route_id}
            of_port = match.text("port") if match is not None else ""
            if of_port and of_port.isdigit():
                port = result.assume_port(service, int(of_port), "http", part.where).name
            if port:
                value["port"] = port
            found = istio_match(match, result) if match is not None else {}
            if found:
                value["match"] = found
            service.routes.append(Item({**value, **said}, part.where))
    except NoSuchMatch as why:
        message = f"{document.title}: a route is left out, since it has {why}, which cannot be expressed"
        result.report.add(codes.NOT_CARRIED, message, part.where)
        part.take()


def _said(service: Service, document: Document, part: Part, result: Result) -> tuple[dict[str, Any], str]:
    said: dict[str, Any] = {}
    port = ""
    if (redirect := part.part("redirect")) is not None:
        return {"redirect": _redirect(redirect, part)}, ""
    shares: dict[str, int] = {}
    destinations = part.each("route")
    for each in destinations:
        target = each.part("destination")
        host = target.text("host") if target is not None else ""
        if target is None or result.service(host, document.namespace, each.where) is not service:
            raise NoSuchMatch(f"a destination that is another service, {host[:60]!r}")
        if (to := target.part("port")) is not None and to.text("number").isdigit():
            port = result.assume_port(service, int(to.text("number")), "http", part.where).name
        if subset := target.text("subset"):
            weight = each.text("weight")
            shares[subset] = shares.get(subset, 0) + (
                int(weight) if weight.isdigit() else int(len(destinations) == 1)
            )
    if shares and len(shares) < len(destinations):
        raise NoSuchMatch("destinations with a subset and without")
    if shares and not sum(shares.values()):
        raise NoSuchMatch("no destination that gets any requests")
    if shares:
        versions = {service.subsets.get(each, each): weight for each, weight in shares.items()}
        service.versions += [each for each in versions if each not in service.versions]
        said["split"] = in_hundredths(versions)
    if (rewrite := part.part("rewrite")) is not None:
        said["rewrite"] = _rewrite(rewrite, part)
    if found := patterns.duration(part.text("timeout")):
        said["timeout"] = found
    if (retries := part.part("retries")) is not None:
        said["retry"] = _retry(retries, said.get("timeout"), result)
    if mirrors := _mirrors(service, document, part, result):
        said["mirror"] = mirrors
    return said, port


def _rewrite(rewrite: Part, part: Part) -> dict[str, str]:
    said = {"host": rewrite.text("authority"), "path": rewrite.text("uri")}
    matches = part.each("match")
    if said["path"] and (not matches or not all(each.has("uri") for each in matches)):
        raise NoSuchMatch("a rewrite of a path that is not matched")
    if len(said["path"]) > 1:
        said["path"] = said["path"].rstrip("/")
    found = {key: value for key, value in said.items() if value}
    if not found:
        raise NoSuchMatch("a rewrite by pattern")
    return found


def _redirect(redirect: Part, part: Part) -> dict[str, Any]:
    exact = [(uri := each.part("uri")) is not None and uri.has("exact") for each in part.each("match")]
    if redirect.has("uri") and not (exact and all(exact)):
        # Istio replaces the whole path; ours is the part that was matched.
        raise NoSuchMatch("a redirect to another path from paths that are not exact")
    code = redirect.text("redirectCode") or "301"
    if code not in _REDIRECTS or redirect.has("port") or redirect.has("derivePort"):
        raise NoSuchMatch("a redirect to a port, or with such a status")
    said: dict[str, Any] = {"path": redirect.text("uri"), "host": redirect.text("authority")}
    said = {key: value for key, value in said.items() if value}
    if redirect.text("scheme") == "https":
        said["https"] = True
    if not said:
        raise NoSuchMatch("a redirect that leads nowhere else")
    return {**said, "status": int(code)}


def _retry(part: Part, timeout: str | None, result: Result) -> dict[str, Any]:
    again = part.text("attempts")
    attempts = min(10, int(again) + 1) if again.isdigit() else 3
    said: dict[str, Any] = {"attempts": attempts}
    if attempts == 1:
        part.take()
        return said
    words = [each.strip() for each in part.text("retryOn").split(",") if each.strip()]
    known: list[Any] = [int(each) if _STATUS.fullmatch(each) else each for each in words
                        if each in _RETRY_WORDS or _STATUS.fullmatch(each)]  # fmt: skip
    for each in words:
        if each not in _RETRY_WORDS and not _STATUS.fullmatch(each):
            result.report.add(codes.NOT_CARRIED, f"retryOn: {each[:60]!r} has no counterpart", part.where)
    if known:
        said["on"] = list(dict.fromkeys(known))
    per_try = patterns.duration(part.text("perTryTimeout"))
    if per_try and timeout and patterns.milliseconds(per_try) * attempts > patterns.milliseconds(timeout):
        message = "perTryTimeout is left out: all tries together would take longer than the timeout"
        result.report.add(codes.NOT_CARRIED, message, part.where)
    elif per_try:
        said["per_try"] = per_try
    return said


def _mirrors(service: Service, document: Document, part: Part, result: Result) -> list[dict[str, Any]]:
    found: list[tuple[Part, Part]] = []
    if (one := part.part("mirror")) is not None:
        found.append((one, part.part("mirrorPercentage") or one))
    for each in part.each("mirrors"):
        if (target := each.part("destination")) is not None:
            found.append((target, each.part("percentage") or each))
    said: list[dict[str, Any]] = []
    for target, share in found:
        other = result.service(target.text("host"), document.namespace, target.where)
        subset, percent = target.text("subset"), share.text("value")
        if other is service and subset:
            version = service.subsets.get(subset, subset)
            service.versions += [version] if version not in service.versions else []
            to = version
        elif other is not None and other is not service and not subset:
            to = f"service:{other.name}"
        else:
            result.report.add(codes.NOT_CARRIED, "a mirror that cannot be expressed", target.where)
            continue
        said.append({"to": to, **({"percent": float(percent)} if _is_percent(percent) else {})})
        target.take()
        share.take()
    return said


def _is_percent(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text)) and 0 < float(text) <= 100
