"""Tokens of the mesh's own token service that were taken back: refused once verified, before any rule is looked at.

As with callers (``revoked``) there is a slot for it, filled by ECDS, the same for every proxy: what is in it counts for
the next request.  It stands only in listeners of meshes that name their own token service as an issuer, and is empty
while nothing is revoked.  What the list asks for is taken from the verified claims into filter state, of which
look-ups are made in maps: what a request costs does not grow with the list.  Of a token that was known by its text
(``token_text``) there are no such claims: it is verified once more, for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_authn_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy.conditions import JWT_METADATA
from vestibule.envoy.nothing import NOTHING
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, serialized
from vestibule.envoy.token_text import HEADER, TEXT_BEGINS
from vestibule.envoy.tokens import HEADER_SUFFIX, provider
from vestibule.envoy.written_down import (
    extension,
    found_in,
    from_on,
    if_like,
    if_unlike,
    state,
    values,
    verdict,
)
from vestibule.intent.model import Issuer, IssuerKind
from vestibule.intent.token_groups import MOST_DEPTH
from vestibule.xds.resources import EXTENSION, Resource

SLOT: Final = "revoked/tokens"

REVOKED_TOKEN: Final = "vestibule/revoked-token"  # noqa: S105 - a name
"""How the names begin under which revoked tokens are refused; after a slash follows what they have in common."""

MOST: Final = 10_000
"""Tokens, clients and subjects, of each so many, that proxies are told of one by one.

What is beyond is refused at once and in another way: every token that is older than the newest entry of that kind.
Clients then get themselves new ones; lists are as long as that only for as long as tokens live.
"""

MOST_ACTORS: Final = MOST_DEPTH
"""In a chain of actors, those that are looked at: as many as a token can have."""

NOT_REVOKED: Final = "vestibule/token-not-revoked"
"""By what somebody is let past the list.  It is no rule that decides about the call."""
_TYPES: Final = (
    "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
    NOTHING.type_url,
)


class _Kind(Protocol):
    @property
    def value(self) -> str: ...


class Entry(Protocol):
    """What revoked tokens have in common, as the token service says it.

    ``by`` is ``token`` (``jti``, or ``txn`` of what was got in exchange for it), ``client`` (``client_id``, ``sub``, or
    anybody in the chain of actors), ``subject`` or ``key``.  Tokens of clients and subjects that were issued from
    ``before`` on count.
    """

    @property
    def by(self) -> _Kind: ...
    @property
    def value(self) -> str: ...
    @property
    def before(self) -> datetime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedTokens:
    """What is refused, in the order of its names; equal lists make equal slots.

    Clients and subjects come with the first second since 1970 from which on what they are issued counts, as does
    everybody's if there is ``every``.
    """

    tokens: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    clients: tuple[tuple[str, int], ...] = ()
    subjects: tuple[tuple[str, int], ...] = ()
    every: int | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry], most: int = MOST) -> RefusedTokens:
        """What proxies are told of a list."""
        found: dict[str, dict[str, int]] = {kind: {} for kind in ("token", "key", "client", "subject")}
        for each in entries:
            known, since = found[each.by.value], math.ceil(each.before.timestamp())
            known[each.value] = max(known.get(each.value, 0), since)
        beyond = {kind for kind in ("token", "client", "subject") if len(found[kind]) > most}
        ends = [since for kind in beyond for since in found[kind].values()]
        clients, subjects = (
            () if kind in beyond else tuple(sorted(found[kind].items())) for kind in ("client", "subject")
        )
        return cls(
            tokens=() if "token" in beyond else tuple(sorted(found["token"])),
            keys=tuple(sorted(found["key"])),
            clients=clients,
            subjects=subjects,
            every=max(ends, default=None),
        )


NOTHING_REVOKED: Final = RefusedTokens()


def http_filter() -> hcm_pb2.HttpFilter:
    """The slot, after the filter that verifies tokens."""
    discovery = config_source_pb2.ExtensionConfigSource(config_source=ads(), type_urls=_TYPES)
    return hcm_pb2.HttpFilter(name=SLOT, config_discovery=discovery)


@lru_cache(maxsize=8)
def slot(refused: RefusedTokens, issuers: tuple[str, ...], says: str, keys: str) -> Resource:
    """What fills the slot.  ``issuers`` are the names under which rules of any intent know the token service.

    ``says`` is what its tokens have as ``iss``, and ``keys`` what they are verified with, as a JWK set.
    """
    empty = refused == NOTHING_REVOKED or not issuers
    service = Issuer(name=next(iter(issuers), ""), issuer=says, keys=keys, kind=IssuerKind.TOKENS)
    config = NOTHING if empty else _asking(refused, issuers, service)
    filled = extension_pb2.TypedExtensionConfig(name=SLOT, typed_config=config)
    return Resource.of(EXTENSION, SLOT, serialized(filled))


def _asking(refused: RefusedTokens, issuers: tuple[str, ...], service: Issuer) -> Any:
    claims: dict[str, str] = {}
    otherwise = verdict(NOT_REVOKED, allow=True)
    for name in issuers:
        asked = _Asked(name, claims)
        for ask in _questions(refused, asked):
            otherwise = ask(otherwise)
    if not service.keys:
        # Without keys none of its tokens counts, whoever says that one was verified.
        otherwise = _unless_known_by_text(otherwise)
    rules = rbac_pb2.RBAC(matcher=otherwise.matcher)
    noting = set_filter_state_pb2.Config(on_request_headers=values(claims))
    for each in noting.on_request_headers:
        each.format_string.omit_empty_values = True
        each.skip_if_empty = True
    asking: list[tuple[str, Message]] = [("noting", noting), ("rules", rules)]
    if service.keys:
        asking.insert(0, ("claims", _claims(service)))
    return _one_after_the_other(asking)


def _claims(service: Issuer) -> jwt_authn_pb2.JwtAuthentication:
    """The claims of a token that was known by its text.  It was verified, so that it is refused if it is not again."""
    config = jwt_authn_pb2.JwtAuthentication(stat_prefix="revoked-token")
    config.providers[service.name].CopyFrom(provider(service, (), typed=True))
    by_text = config.rules.add()
    by_text.match.prefix = "/"
    by_text.match.headers.add(name=HEADER, present_match=True)
    by_text.requires.provider_name = service.name
    return config


class _Asked:
    """Claims of an issuer's tokens that are asked for."""

    def __init__(self, issuer: str, asked: dict[str, str]) -> None:
        self._issuer = issuer
        self._asked = asked

    def claim(self, *path: str) -> str:
        """The key under which a claim is written down."""
        return self._key(self._issuer, path)

    def header(self, name: str) -> str:
        """The same of a member of the token's header."""
        return self._key(f"{self._issuer}{HEADER_SUFFIX}", (name,))

    def _key(self, place: str, path: tuple[str, ...]) -> str:
        inner = ":".join((JWT_METADATA, place, *path))
        key = f"vestibule.token.{place}.{'.'.join(path)}"
        self._asked[key] = f"%DYNAMIC_METADATA({inner})%"
        return key


_Question = Callable[[Matcher.OnMatch], Matcher.OnMatch]
"""What is asked, given what follows where the answer is that nothing is revoked."""


def _questions(refused: RefusedTokens, asked: _Asked) -> Iterator[_Question]:
    """Those to which there is an answer."""
    if refused.tokens:
        denied = verdict(f"{REVOKED_TOKEN}/token")
        for name in ("jti", "txn"):
            yield _named(asked.claim(name), dict.fromkeys(refused.tokens, denied))
    if refused.keys:
        denied = verdict(f"{REVOKED_TOKEN}/key")
        yield _named(asked.header("kid"), dict.fromkeys(refused.keys, denied))
    if refused.clients:
        older = _older(refused.clients, asked, "client")
        # Its own tokens, and what others got for them.
        yield _named(asked.claim("client_id"), older)
        yield _named(asked.claim("sub"), older)
        for depth in range(1, MOST_ACTORS + 1):
            yield _named(asked.claim(*["act"] * depth, "sub"), older)
    if refused.subjects:
        yield _named(asked.claim("sub"), _older(refused.subjects, asked, "subject"))
    if refused.every is not None:
        yield _older_than(refused.every, asked)


def _named(key: str, entries: Mapping[str, Matcher.OnMatch]) -> _Question:
    return lambda otherwise: found_in(state(key), entries, otherwise)


def _older(since: Iterable[tuple[str, int]], asked: _Asked, what: str) -> dict[str, Matcher.OnMatch]:
    """Refused is what was issued before; what does not say when counts as old."""
    born, denied = asked.claim("iat"), verdict(f"{REVOKED_TOKEN}/{what}")
    made: dict[int, Matcher.OnMatch] = {}
    for _, instant in since:
        if instant not in made:
            # A miss here leads on to the next question, as one of the map does.
            made[instant] = if_unlike(born, from_on(instant), denied)
    return {name: made[instant] for name, instant in since}


def _older_than(instant: int, asked: _Asked) -> _Question:
    born, denied = asked.claim("iat"), verdict(f"{REVOKED_TOKEN}/every")
    there = asked.claim("iss")

    def ask(otherwise: Matcher.OnMatch) -> Matcher.OnMatch:
        return if_like(there, ".+", if_like(born, from_on(instant), otherwise, denied), otherwise)

    return ask


def _unless_known_by_text(otherwise: Matcher.OnMatch) -> Matcher.OnMatch:
    source = extension("text", http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=HEADER))
    denied = {TEXT_BEGINS: verdict(f"{REVOKED_TOKEN}/key")}
    return found_in(source, denied, otherwise, prefix=True)


def _one_after_the_other(filters: Iterable[tuple[str, Message]]) -> Any:
    execute = composite_pb2.ExecuteFilterAction()
    for name, config in filters:
        execute.filter_chain.typed_config.add(name=name).typed_config.CopyFrom(packed(config))
    do = Matcher.OnMatch(action=extension("composite-action", execute))
    found = extension_matcher_pb2.ExtensionWithMatcher(xds_matcher=Matcher(on_no_match=do))
    found.extension_config.name = "composite"
    found.extension_config.typed_config.CopyFrom(packed(composite_pb2.Composite()))
    return packed(found)


EMPTY: Final = slot(NOTHING_REVOKED, (), "", "")
"""As long as nothing is revoked."""
