"""Where a gateway's routes lead: to services, and there along the services' own routes.

A gateway is a caller like any other, so what a service says about calls to it (splits, retries, faults, …) holds for
those through a gateway as well.  Envoy looks at routes once, so both are put together here, as values of the intent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, TypeAlias

from vestibule.envoy.matches import is_every
from vestibule.envoy.routes import Calls
from vestibule.intent.matches import covers_host
from vestibule.intent.traffic import Redirect, Rewrite, Route, RouteMatch
from vestibule.policy import PathPattern


def composed(route: Route, calls: Calls) -> Iterator[Route]:
    """A gateway's route to a service, as one for each of the service's own that it can lead to; the first decides."""
    for own in calls.routes:
        if (both := _both(route, own)) is not None:
            yield both
            if is_every(own.match):
                return
    yield route


def _both(route: Route, own: Route) -> Route | None:
    """One route that asks and does what both do; None where no request could match both."""
    pattern = _before_rewriting(own.match.path, route)
    path = _narrower(route.match.path or "all", pattern)
    methods = route.match.methods & own.match.methods or route.match.methods | own.match.methods
    apart = route.match.methods and own.match.methods and not route.match.methods & own.match.methods
    if path == "none" or apart:
        return None
    match = RouteMatch(
        path=None if path == "all" else path,
        methods=methods,
        headers=(*route.match.headers, *own.match.headers),
        query=(*route.match.query, *own.match.query),
        hosts=route.match.hosts,
    )
    return replace(
        route,
        match=match,
        split=own.split,
        rewrite=_rewrites(route, own, match.path),
        redirect=_redirects(route, own, match.path),
        timeout=route.timeout or own.timeout,
        idle_timeout=route.idle_timeout or own.idle_timeout,
        retry=route.retry or own.retry,
        hedge=own.hedge,
        mirror=own.mirror,
        fault=own.fault,
    )


def _rewrites(route: Route, own: Route, path: PathPattern | None) -> Rewrite | None:
    """What one after the other makes of the paths of ``path``, in one step."""
    first, then = route.rewrite or Rewrite(), own.rewrite or Rewrite()
    to = None
    if first.path is not None or then.path is not None:
        to = _arriving(route, path)
        to = to if then.path is None else _replaced(to, own.match.path, then.path)
    rewrite = Rewrite(path=to, host=then.host or first.host)
    return None if rewrite == Rewrite() else rewrite


def _redirects(route: Route, own: Route, path: PathPattern | None) -> Redirect | None:
    if own.redirect is None or own.redirect.path is None:
        return own.redirect
    return replace(own.redirect, path=_replaced(_arriving(route, path), own.match.path, own.redirect.path))


def _arriving(route: Route, path: PathPattern | None) -> str:
    """The literal part of ``path``, one of those that a gateway's route is for, as the service sees it."""
    literal = path.literal if path is not None else ""
    to = None if route.rewrite is None else route.rewrite.path
    return literal if to is None else _replaced(literal, route.match.path, to)


def _replaced(path: str, pattern: PathPattern | None, to: str) -> str:
    """As ``envoy.paths``: ``to`` takes the place of what a pattern says literally, or of an exact path."""
    if pattern is not None and pattern.is_literal and not pattern.below:
        return to
    literal = pattern.literal if pattern is not None else ""
    return to.rstrip("/") + path.removeprefix(literal) or "/"


_Paths: TypeAlias = PathPattern | Literal["all", "none"]


def _narrower(one: _Paths, other: _Paths) -> _Paths:
    """What both match."""
    if one == "none" or other == "none":
        return "none"
    if one == "all" or other == "all":
        return other if one == "all" else one
    return one.within(other) or "none"


def _before_rewriting(pattern: PathPattern | None, route: Route) -> _Paths:
    """The paths of a service as clients of the gateway write them."""
    to = None if route.rewrite is None else route.rewrite.path
    if pattern is None or to is None:
        return pattern or "all"
    before = route.match.path or PathPattern(segments=(), below=True)
    if not before.is_literal:
        return "none"
    after = PathPattern.parse(f"{to.rstrip('/')}/**" if before.below else to)
    if pattern.covers(after):
        return before
    if not before.below or not after.covers(pattern):
        return "none"
    rest = pattern.segments[len(after.segments) :]
    return PathPattern(segments=(*before.segments, *rest), below=pattern.below)


def domains(listener: Iterable[str], routes: Iterable[Route]) -> tuple[str, ...]:
    """The hosts that a listener has to tell apart: its own, and as far as it answers for them those of routes."""
    found = dict.fromkeys(listener)
    for route in routes:
        for host in route.match.hosts:
            for own in tuple(found):
                if covers_host(own, host):
                    found[host] = None
    return tuple(found)


def for_domain(domain: str, routes: Iterable[Route]) -> Iterator[Route]:
    """The routes for requests to a domain, in order."""
    for route in routes:
        if not route.match.hosts or any(covers_host(each, domain) for each in route.match.hosts):
            yield route
