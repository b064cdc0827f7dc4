"""Tokens that a gateway asks for: who comes from outside shows one of an issuer, or gets no further.

The filter stands in every listener of a gateway, and routes name what they ask for.  It is never without a
configuration: a route that asks for what the filter does not know (yet) is refused by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from google.protobuf.any_pb2 import Any

from vestibule.envoy import tokens
from vestibule.envoy.protos import packed, serialized
from vestibule.envoy.tokens import Issuers
from vestibule.intent.traffic import Route, RouteToken
from vestibule.xds.resources import EXTENSION, Resource

SLOT: Final = tokens.slot_name("gateway")


def resource(routes: Iterable[Route], issuers: Issuers) -> Resource:
    """What the filter of a gateway verifies."""
    asked = sorted({each.token for each in routes if each.token is not None}, key=_requirement)
    names = {each.issuer for each in asked}
    known = Issuers(tuple(each for each in issuers.known if each.name in names), issuers.trust_domain)
    return _resource(tuple(asked), known)


@lru_cache(maxsize=1024)
def _resource(asked: tuple[RouteToken, ...], issuers: Issuers) -> Resource:
    config = config_pb2.JwtAuthentication(stat_prefix="token")
    for each in asked:
        if (issuer := issuers.named(each.issuer)) is not None:
            name = _requirement(each)
            config.providers[name].CopyFrom(tokens.provider(issuer, [each.audience]))
            config.requirement_map[name].provider_name = name
    extension = extension_pb2.TypedExtensionConfig(name=SLOT, typed_config=packed(config))
    return Resource.of(EXTENSION, SLOT, serialized(extension))


def asked_by(route: Route) -> Any | None:
    """What a route tells the filter, if it asks for a token."""
    if route.token is None:
        return None
    return packed(config_pb2.PerRouteConfig(requirement_name=_requirement(route.token)))


def _requirement(asked: RouteToken) -> str:
    """Neither name has a blank."""
    return f"{asked.issuer} {asked.audience}"
