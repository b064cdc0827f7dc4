"""Matches of routes: Istio's HTTPMatchRequest, and Gateway API's HTTPRouteMatch and GRPCRouteMatch."""

from __future__ import annotations

from typing import Any

from vestibule.intent.importing import codes, patterns
from vestibule.intent.importing.documents import Part
from vestibule.intent.importing.result import Result
from vestibule.intent.words import METHODS


class NoSuchMatch(Exception):  # noqa: N818 - it reads as what it says
    """A match of which a part cannot be expressed: without it, the route would take other requests."""


def istio_match(part: Part, result: Result) -> dict[str, Any]:
    """Raises: NoSuchMatch."""
    match: dict[str, Any] = {}
    for key in [each for each in part.said_keys() if part.has(each) and each not in ("name", "port")]:
        value = part.part(key)
        assert value is not None
        if key == "uri":
            match["path"] = _istio_path(value, result)
        elif key == "method":
            match["methods"] = [_method(value.text("exact"))]
        elif key in ("headers", "queryParams"):
            where = "headers" if key == "headers" else "query"
            match.setdefault(where, {}).update(
                {_name(each): _istio_value(value, each) for each in value.said_keys()}
            )
        elif key == "withoutHeaders":
            if any(item is not None and item.said_keys() for item in map(value.part, value.said_keys())):
                raise NoSuchMatch("'withoutHeaders' with values")
            match.setdefault("headers", {}).update(
                {_name(each): {"present": False} for each in value.said_keys()}
            )
        else:
            raise NoSuchMatch(f"'{key}'")
    part.take()
    return match


def _istio_path(part: Part, result: Result) -> str:
    exact, prefix = part.text("exact"), part.text("prefix")
    if exact and (path := patterns.exact_path(exact)):
        return path
    if prefix and (path := patterns.element_prefix(prefix)):
        if prefix != "/":
            message = f"the prefix {prefix} is carried over as {path}: whole segments"
            result.report.add(codes.NARROWED, message, part.where)
        return path
    raise NoSuchMatch("its path")


def _istio_value(part: Part, key: str) -> dict[str, Any]:
    value = part.part(key)
    if value is None or not value.said_keys():
        return {"present": True}
    for word, ours in (("exact", "equals"), ("prefix", "prefix")):
        if set(value.said_keys()) == {word} and value.text(word):
            return {ours: value.text(word)}
    raise NoSuchMatch(f"the value of {key}")


def gateway_match(part: Part) -> dict[str, Any]:
    """Raises: NoSuchMatch."""
    match: dict[str, Any] = {}
    for key in [each for each in part.said_keys() if part.has(each)]:
        if key == "path" and (path := part.part("path")) is not None:
            match["path"] = _gateway_path(path)
        elif key == "method" and not (grpc := part.part("method")).said_keys():  # type: ignore[union-attr]
            match["methods"] = [_method(part.text("method"))]
        elif key == "method":
            match["path"] = _grpc_path(grpc)  # type: ignore[arg-type]
        elif key in ("headers", "queryParams"):
            where = "headers" if key == "headers" else "query"
            match[where] = {_name(each.text("name")): _gateway_value(each) for each in part.each(key)}
        else:
            raise NoSuchMatch(f"'{key}'")
    part.take()
    return match


def _gateway_path(part: Part) -> str:
    kind, value = part.text("type") or "PathPrefix", part.text("value") or "/"
    make = {"Exact": patterns.exact_path, "PathPrefix": patterns.element_prefix}.get(kind)
    path = make(value) if make else None
    if path is None:
        raise NoSuchMatch(f"a path of the type {kind}")
    return path


def _grpc_path(part: Part) -> str:
    service, method = part.text("service"), part.text("method")
    if (part.text("type") or "Exact") != "Exact" or not service:
        raise NoSuchMatch("a method by pattern, or without its service")
    path = patterns.exact_path(f"/{service}/{method}") if method else patterns.element_prefix(f"/{service}")
    if path is None:
        raise NoSuchMatch("the method's name")
    return path


def _gateway_value(part: Part) -> dict[str, Any]:
    if (part.text("type") or "Exact") != "Exact":
        raise NoSuchMatch(f"a value of the type {part.text('type')}")
    return {"equals": part.text("value")}


def _method(text: str) -> str:
    if text not in METHODS:
        raise NoSuchMatch(f"the method {text[:40]!r}")
    return text


def _name(text: str) -> str:
    return text.lower()
