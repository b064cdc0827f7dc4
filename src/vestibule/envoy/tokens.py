"""Tokens that rules demand: verified by a filter of its own, judged where the rules are.

A token that is there and cannot be verified is refused before any rule is looked at.  None at all is no fault: whether
one is needed is for the rules to say.  The filter stands in every listener, empty where no rule demands a token.

What the rules see of a token is its claims, as metadata; of tokens of the mesh's own service, where that is enough,
their text (``token_text``), which costs a request less than half.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.input_matchers.metadata.v3 import metadata_pb2
from envoy.type.matcher.v3 import string_pb2, value_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from xds.type.matcher.v3 import string_pb2 as xds_string_pb2

from vestibule.envoy import conditions, token_text, trees
from vestibule.envoy.conditions import CERTIFICATE, JWT_METADATA
from vestibule.envoy.nothing import NOTHING
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.token_text import TokenText
from vestibule.envoy.trees import Predicate
from vestibule.intent.model import Issuer, IssuerKind
from vestibule.policy import Condition, Mode, PortPolicy, TokenDemand
from vestibule.policy import expressions as ex
from vestibule.policy.demands import CERTIFICATE_CLAIM
from vestibule.xds.resources import EXTENSION, Resource

SKEW_SECONDS: Final = 30
"""How far the clocks of issuers and proxies may be apart."""

REFUSED_DETAILS: Final = "jwt_authn_access_denied"
"""How the details of an answer begin by which the filter refuses."""

UNASKED: Final = "vestibule/token-unasked"
"""The name under which calls with an Authorization header are refused by ports that take none."""

HEADER_SUFFIX: Final = "#header"
"""Of the name under which a token's claims stand: so its header does."""

_TYPES: Final = (
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    NOTHING.type_url,
    # What refuses all tokens; and what was in empty slots before.
    "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
)
_BEGINNING: Final = "Bearer e"
"""Of the header with a token: what is signed begins with a ``{``."""

_BY_TEXT: Final = "#text"
_BETWEEN: Final = ","
"""What stands between the values of several headers of a name, and in no token."""

_NONE_SHOWN: Final = "vestibule/no-token"
_MATCHER: Final = http_rbac_pb2.RBAC.DESCRIPTOR.fields_by_name["matcher"].number
_PRESENT: Final = value_pb2.ValueMatcher(present_match=True)
_RFC_9068: Final = r"(?i:(?:application/)?at\+jwt)"


@dataclass(frozen=True, slots=True)
class Issuers:
    """Those whose tokens count in a mesh of this trust domain; ``service`` is its own token service, if it has one.

    ``text`` is by which text tokens are known, where rules are only about one port and that is enough for all of them.
    """

    known: tuple[Issuer, ...] = ()
    trust_domain: str = ""
    service: str = ""
    text: TokenText | None = None

    def named(self, name: str) -> Issuer | None:
        """The issuer that rules call by this name."""
        return next((each for each in self.known if each.name == name), None)

    def demanded_by(self, policy: PortPolicy) -> Issuers:
        """Those that the port's rules speak of."""
        names = {demand.issuer for demand in demanded(policy)}
        return Issuers(tuple(each for each in self.known if each.name in names), self.trust_domain)

    def by_text(self, policy: PortPolicy) -> Issuers:
        """The same, where the port's proxy may know tokens by their text and nobody else has to judge them."""
        return replace(self, text=token_text.of_port(policy, self.known))

    def is_own(self, issuer: Issuer) -> bool:
        """Whether it is the mesh's own, whose access tokens say that they are such (RFC 9068, section 2.1).

        It is the token service, or its address is of the trust domain, or below it.
        """
        if issuer.kind is IssuerKind.TOKENS:
            return True
        host = issuer.issuer.partition("://")[2].partition("/")[0].partition(":")[0]
        return host == self.trust_domain or host.endswith(f".{self.trust_domain}")


NO_ISSUERS: Final = Issuers()


def slot_name(port: str) -> str:
    """Of the filter's configuration."""
    return f"token/{port}"


def http_filter(slot: str) -> hcm_pb2.HttpFilter:
    """The filter, whose configuration is delivered by ECDS."""
    discovery = config_source_pb2.ExtensionConfigSource(config_source=ads(), type_urls=_TYPES)
    return hcm_pb2.HttpFilter(name=slot, config_discovery=discovery)


@lru_cache(maxsize=4096)
def resource(policy: PortPolicy, issuers: Issuers, *, refuses: bool = False) -> Resource:
    """What the filter of a port verifies: tokens of the issuers, for the audiences, that its rules demand.

    ``refuses``: where rules demand none, whoever shows one is refused.
    """
    name = slot_name(policy.port)
    config: Message | None = authentication(policy, issuers)
    if config is None and refuses:
        config = _none_at_all()
    extension = extension_pb2.TypedExtensionConfig(
        name=name, typed_config=NOTHING if config is None else packed(config)
    )
    return Resource.of(EXTENSION, name, serialized(extension))


def _none_at_all() -> http_rbac_pb2.RBAC:
    shown = trees.single(trees.header("authorization"), trees.regex("(?s:.*)"))
    root = trees.first_of([(shown, trees.action(UNASKED, allow=False))], trees.action(_NONE_SHOWN))
    assert root is not None
    return http_rbac_pb2.RBAC.FromString(trees.field(_MATCHER, trees.matcher_of(root)))


def authentication(policy: PortPolicy, issuers: Issuers) -> config_pb2.JwtAuthentication | None:
    """The configuration that verifies what the rules demand; None if they demand nothing."""
    audiences = _audiences(policy)
    known = {name: found for name in sorted(audiences) if (found := issuers.named(name)) is not None}
    if not known:
        return None
    config = config_pb2.JwtAuthentication(stat_prefix="token")
    for name, each in known.items():
        config.providers[name].CopyFrom(provider(each, audiences[name], typed=issuers.is_own(each)))
    if issuers.text is not None:
        _known_by_text(config, issuers.text)
    anything = config.rules.add()
    anything.match.prefix = "/"
    wanted = anything.requires.requires_any.requirements
    for name in known:
        wanted.add(provider_name=name)
    if any(rule.token is not None and rule.mode is Mode.ENFORCE for rule in (*policy.deny, *policy.allow)):
        wanted.add(allow_missing=Empty())
    else:
        # Rules in shadow mode change nothing for anybody, whatever token a call carries.
        wanted.add(allow_missing_or_failed=Empty())
    return config


def _known_by_text(config: config_pb2.JwtAuthentication, text: TokenText) -> None:
    """Verified alike, but of such a token only its text is told; it stands before what holds for all others."""
    known = config.providers[f"{text.issuer}{_BY_TEXT}"]
    known.CopyFrom(config.providers[text.issuer])
    known.ClearField("payload_in_metadata")
    known.ClearField("header_in_metadata")
    known.forward_payload_header = token_text.HEADER
    for each in text.contained():
        rule = config.rules.add()
        rule.match.prefix = "/"
        # One token, which is all that the header says (as ``_one_header``), and of our access tokens.
        rule.match.headers.add(name="authorization").string_match.contains = each
        rule.match.headers.add(name="authorization").string_match.prefix = token_text.BEARER
        several = rule.match.headers.add(name="authorization", invert_match=True)
        several.string_match.contains = _BETWEEN
        rule.requires.provider_name = f"{text.issuer}{_BY_TEXT}"


def demanded(policy: PortPolicy) -> Iterator[TokenDemand]:
    """The demands of the port's rules."""
    for rule in (*policy.deny, *policy.allow):
        if rule.token is not None:
            yield rule.token


def predicates(
    demand: TokenDemand, *, denies: bool, own: bool, caller: str = "", text: TokenText | None = None
) -> tuple[Predicate, ...]:
    """Whether a request's token is what is demanded; for a denial also if its claims cannot be judged.

    No token at all is never what is demanded.  ``own``: of the mesh's own issuer.  ``caller`` is whose calls it is
    asked for, where that is one.  ``text``: tokens may be known by it.
    """
    asked = _by_claims(demand, denies=denies, own=own, caller=caller)
    if denies and own and not demand.svid:
        # Where tokens are denied none is known by its text; but the filter may not have heard of that yet.
        return (trees.any_of((token_text.IS_KNOWN, trees.all_of(asked))),)
    if text is None or denies or (demand.bound and not caller):
        return asked
    return (trees.any_of((text.is_met(demand, caller), trees.all_of(asked))),)


def _by_claims(demand: TokenDemand, *, denies: bool, own: bool, caller: str) -> tuple[Predicate, ...]:
    asked = [*_one_header()]
    if denies or demand.svid:
        # Whoever permits asks for an audience, which is there only if the issuer is; JWT-SVIDs need a subject, too.
        asked.append(_claim(demand.issuer, "sub" if demand.svid else "iss", _PRESENT))
    if own and not demand.svid:
        asked.append(_claim(demand.issuer + HEADER_SUFFIX, "typ", _either("at+jwt", _RFC_9068)))
    if denies:
        return (*asked, _of_claims(demand, denies=True))
    return (*asked, *_permitting(demand, caller))


def _one_header() -> Iterator[Predicate]:
    """The token is all that the Authorization header says.

    Of two of them the proxy could verify the first, and the app believe the second.  In one that begins with a token
    the proxy has verified all that follows.  A regular expression over a token costs as much as verifying it did.
    """
    shown = trees.header("authorization")
    yield trees.single(shown, xds_string_pb2.StringMatcher(prefix=_BEGINNING))
    yield trees.negated(trees.single(shown, xds_string_pb2.StringMatcher(contains=_BETWEEN)))


def _permitting(demand: TokenDemand, caller: str) -> Iterator[Predicate]:
    """The claims one by one.  What cannot be judged permits nothing, so that no condition has to tell it apart.

    An expression in CEL costs a request ten times as much as all of these.
    """
    of = demand.issuer
    audience = _exactly(demand.audience)
    listed = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=audience))
    yield _claim(of, "aud", _any(audience, listed))
    for scope in demand.scopes:
        yield _claim(of, "scope", _either(scope, f"(?s:(?:.* )?{re.escape(scope)}(?: .*)?)"))
    for name, value in demand.claims:
        yield _claim(of, name, _exactly(value))
    asked = demand
    if demand.bound and caller:
        yield _claim(of, "sub", _exactly(caller)) if demand.svid else _presented_by(of, caller)
        asked = replace(asked, bound=False)
    if asked.bound or asked.certificate:
        yield _of_claims(asked, denies=False)


def _presented_by(issuer: str, caller: str) -> Predicate:
    """By the outermost actor (RFC 8693, section 4.1); where there is none, not even one that is null, by the client."""
    null = value_pb2.ValueMatcher(null_match=value_pb2.ValueMatcher.NullMatch())
    nobody = trees.negated(_claim(issuer, "act", _any(_PRESENT, null)))
    itself = trees.all_of((_claim(issuer, "client_id", _exactly(caller)), nobody))
    return trees.any_of((itself, _claim(issuer, ("act", "sub"), _exactly(caller))))


def _exactly(text: str) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact=text))


def _either(usual: str, regex: str) -> value_pb2.ValueMatcher:
    """What the regular expression matches, as the text does that most tokens have: that is cheaper to ask."""
    return _any(_exactly(usual), value_pb2.ValueMatcher(string_match=_text(regex)))


def _any(*values: value_pb2.ValueMatcher) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=values))


def held(demand: TokenDemand) -> Predicate:
    """Whether a request's token can be judged, and is what is demanded."""
    return _of_claims(demand, denies=False)


def _of_claims(demand: TokenDemand, *, denies: bool) -> Predicate:
    wanted = Condition.of(_as_condition(demand))
    return conditions.predicate(wanted, denies=denies, issuer=demand.issuer)


def _as_condition(demand: TokenDemand) -> ex.Expression:
    claims = ex.Name("token.claims")
    parts: list[ex.Expression] = [
        ex.Operation(ex.IN, (ex.Constant(demand.audience), ex.Name("token.audiences")))
    ]
    parts += [ex.Operation(ex.IN, (ex.Constant(each), ex.Name("token.scopes"))) for each in demand.scopes]
    for name, value in demand.claims:
        parts.append(ex.Operation(ex.IN, (ex.Constant(name), claims)))
        found = ex.Operation(ex.INDEX, (claims, ex.Constant(name)))
        parts.append(ex.Operation(ex.EQUAL, (found, ex.Constant(value))))
    if demand.bound:
        shown = ex.Field(claims, "sub") if demand.svid else _presenter(claims)
        parts.append(_is(shown, ex.Name("caller.id")))
    if demand.certificate:
        parts.append(ex.Field(claims, CERTIFICATE_CLAIM, asked=True))
        parts.append(_is(ex.Field(claims, CERTIFICATE_CLAIM), ex.Name(CERTIFICATE)))
    return _all(parts)


def _presenter(claims: ex.Expression) -> ex.Expression:
    """The outermost actor (RFC 8693, section 4.1), else the client."""
    actor = ex.Field(ex.Field(claims, "act"), "sub")
    return ex.Operation(
        ex.CHOICE, (ex.Field(claims, "act", asked=True), actor, ex.Field(claims, "client_id"))
    )


def _is(said: ex.Expression, known: ex.Expression) -> ex.Expression:
    """An error where what the token says is no text, as that cannot be judged."""
    is_text = ex.Operation("startsWith", (ex.Constant(""),), said)
    return ex.Operation(ex.CHOICE, (is_text, ex.Operation(ex.EQUAL, (said, known)), ex.Failure()))


def _all(parts: Iterable[ex.Expression]) -> ex.Expression:
    first, *others = parts
    for each in others:
        first = ex.Operation(ex.AND, (first, each))
    return first


def _claim(key: str, claim: str | tuple[str, ...], value: value_pb2.ValueMatcher) -> Predicate:
    wanted = network_inputs_pb2.DynamicMetadataInput(filter=JWT_METADATA)
    for each in (key, claim) if isinstance(claim, str) else (key, *claim):
        wanted.path.add(key=each)
    return trees.custom(trees.source(wanted), "m", metadata_pb2.Metadata(value=value))


def _text(regex: str) -> string_pb2.StringMatcher:
    matcher = string_pb2.StringMatcher()
    matcher.safe_regex.regex = regex
    return matcher


def _audiences(policy: PortPolicy) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for demand in demanded(policy):
        found.setdefault(demand.issuer, set()).add(demand.audience)
    return found


def provider(issuer: Issuer, audiences: Iterable[str], *, typed: bool = False) -> config_pb2.JwtProvider:
    """How tokens of an issuer are verified that are for one of the audiences.

    ``typed``: what their headers say is asked for, too.  For every request it is copied twice, as the claims are.
    """
    provider = config_pb2.JwtProvider(
        issuer=issuer.issuer,
        audiences=sorted(audiences),
        # Said, or the query would be looked at too.
        from_headers=[config_pb2.JwtHeader(name="Authorization", value_prefix="Bearer ")],
        forward=True,
        require_expiration=True,
        clock_skew_seconds=SKEW_SECONDS,
        payload_in_metadata=issuer.name,
        header_in_metadata=issuer.name + HEADER_SUFFIX if typed else "",
    )
    provider.local_jwks.inline_string = issuer.keys
    provider.jwt_cache_config.SetInParent()
    if issuer.longest is not None:
        provider.max_lifetime.CopyFrom(seconds(issuer.longest.total_seconds()))
    return provider
