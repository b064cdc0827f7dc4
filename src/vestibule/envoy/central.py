"""Which calls a decision service decides about, why, and how a callee's proxy asks it.

A proxy decides alone about all that it can: what a denial refuses which stands before any denial that it cannot judge,
and, where it can judge every denial, what a permission allows which stands before any that it cannot judge.  That is
its part of the policy, compiled as any other; its last rule lets everybody through to the question, which the decision
service answers by the whole policy.  So verdicts and the names of rules are those of the engine, wherever they are
made.

Both, rules and question, are one resource.  A proxy never has the one without the other, as it might if the question
were part of a route: for a moment, everybody would be let through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.composite.v3 import composite_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2
from envoy.type.v3 import http_status_pb2
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy.conditions import JWT_METADATA as TOKENS
from vestibule.envoy.mcp import METADATA as MCP
from vestibule.envoy.names import ASKED, DECIDED
from vestibule.envoy.places import decision_service
from vestibule.envoy.protos import packed, seconds
from vestibule.intent.model import Decide
from vestibule.policy import Condition, McpDemand, Mode, PortPolicy, Rule
from vestibule.policy import expressions as ex
from vestibule.policy.central import MANY_CALLERS, enforced_centrally, why_central
from vestibule.policy.documents import to_bytes
from vestibule.policy.mcp import KNOWN_METHODS, named_methods
from vestibule.xds.resources import DECISIONS, Resource

TIMEOUT: Final = 3.0
"""Seconds that a proxy waits for a decision, retries included; then the call is refused with 503.  An agent that was
restarted knows its proxies again in less than two."""

RETRIES: Final = 32
"""More than there is time for: an agent that is away is asked again until ``TIMEOUT``."""

MAX_BODY: Final = 64 * 1024
"""Bytes of a body that rules may look at; requests with longer ones are refused with 413."""

ROUTE: Final = "vestibule"
"""Where in a route's metadata the service and port stand that it leads to."""

RBAC: Final = "envoy.filters.http.rbac"
"""Under which name the filter keeps which rule decided."""


_ALWAYS: Final = ("x-request-id",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Central:
    """A port about which a decision service decides, and why, in words for people; ``local`` is the proxy's part."""

    why: str
    local: PortPolicy


def decided_where(policy: PortPolicy, decide: Decide) -> Central | None:
    """Whether a decision service is asked about calls to the port; None if the proxy alone decides.

    ``decide`` is what the mesh says.  TCP is always decided about by the proxy.
    """
    if not policy.is_http:
        return None
    denials, permissions = policy.deny, (*policy.emergencies, *policy.allow)
    reasons = list(enforced_centrally((*denials, *permissions)))
    if not reasons and decide is not Decide.CENTRAL:
        return None
    denied = _before_central(denials)
    local = replace(policy, deny=denied, emergencies=(), allow=())
    if len(denied) == len(denials):
        # Break-glass is the proxy's own, also where all else is not: it must work while everything else is broken.
        kept = permissions if decide is Decide.LOCAL else policy.emergencies
        allowed = _before_central(kept)
        opened = len(policy.emergencies)
        local = replace(local, emergencies=allowed[:opened], allow=allowed[opened:])
    why = reasons[0] if reasons else "mesh.yaml says decide: central"
    if len(reasons) > 1:
        why = f"{why}, and {len(reasons) - 1} more"
    through = _through(policy)
    asked = [through]
    if _has_shadows(policy):
        # So that the proxy says also of what it decides alone what rules in shadow mode would make of it.
        asked.append(replace(through, mode=Mode.SHADOW))
    return Central(why=why, local=without_unjudged(replace(local, allow=(*local.allow, *asked))))


def _has_shadows(policy: PortPolicy) -> bool:
    return any(rule.mode is Mode.SHADOW for rule in (*policy.deny, *policy.allow))


def _through(policy: PortPolicy) -> Rule:
    """To the question, for everybody; where MCP is spoken, with every message that some rule may know."""
    rules = (*policy.deny, *policy.emergencies, *policy.allow)
    known = (
        McpDemand(methods=tuple(sorted({*KNOWN_METHODS, *named_methods(rules)}))) if policy.is_mcp else None
    )
    return Rule(name=ASKED, callers=(), anyone=True, mcp=known)


def _before_central(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules before the first that is enforced and that proxies cannot judge."""
    central = (place for place, rule in enumerate(rules) if rule.mode is Mode.ENFORCE and why_central(rule))
    end = next(central, len(rules))
    return tuple(rules[:end])


def without_unjudged(policy: PortPolicy) -> PortPolicy:
    """The same for a proxy alone: of calls for which a shadow rule would be judged elsewhere, it says nothing.

    What is enforced is the same.
    """
    deny, allow = (tuple(map(_unsaid, rules)) for rules in (policy.deny, policy.allow))
    return policy if (deny, allow) == (policy.deny, policy.allow) else replace(policy, deny=deny, allow=allow)


def _unsaid(rule: Rule) -> Rule:
    """A shadow rule that may or may not match, as one that matches and whose verdict is not told."""
    if rule.mode is not Mode.SHADOW or not why_central(rule):
        return rule
    many = len(rule.callers) > MANY_CALLERS
    return replace(
        rule,
        name=ASKED,
        when=None,
        token=None,
        callers=() if many else rule.callers,
        anyone=many or rule.anyone,
    )


# ------------------------------------------------------------------------------------------ compiled


def decisions(policy: PortPolicy) -> Resource:
    """The policy of a port for the decision service beside its proxy."""
    return Resource.of(DECISIONS, policy.port, to_bytes(policy))


def both(rules: rbac_pb2.RBAC, policy: PortPolicy) -> extension_matcher_pb2.ExtensionWithMatcher:
    """The proxy's part of the rules, and then the question."""
    execute = composite_pb2.ExecuteFilterAction()
    for name, config in ((RBAC, rules), (DECIDED, question(policy))):
        execute.filter_chain.typed_config.add(name=name).typed_config.CopyFrom(packed(config))
    do = Matcher.OnMatch(action=TypedExtensionConfig(name="composite-action", typed_config=packed(execute)))
    found = extension_matcher_pb2.ExtensionWithMatcher(xds_matcher=Matcher(on_no_match=do))
    found.extension_config.name = "composite"
    found.extension_config.typed_config.CopyFrom(packed(composite_pb2.Composite()))
    return found


def question(policy: PortPolicy) -> ext_authz_pb2.ExtAuthz:
    """The filter that asks: fails closed, tells no more than rules need, waits no longer than ``TIMEOUT``."""
    conditions = [rule.when for rule in (*policy.deny, *policy.allow) if rule.when is not None]
    service = decision_service()
    service.timeout.CopyFrom(seconds(TIMEOUT))
    # Only where nobody has decided: there was no connection, or nobody yet who knows the proxy.
    service.retry_policy.retry_on = "unavailable,connect-failure,refused-stream,reset"
    service.retry_policy.num_retries.value = RETRIES
    service.retry_policy.retry_back_off.base_interval.CopyFrom(seconds(0.1))
    service.retry_policy.retry_back_off.max_interval.CopyFrom(seconds(0.3))
    config = ext_authz_pb2.ExtAuthz(
        grpc_service=service,
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=False,
        status_on_error=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable),
        validate_mutations=True,
        encode_raw_headers=True,
        include_peer_certificate=any(_asks_for_certificate(each) for each in (*policy.deny, *policy.allow)),
        metadata_context_namespaces=_namespaces(policy),
        route_metadata_context_namespaces=[ROUTE],
        filter_enabled_metadata=_unless_allowed(policy),
        stat_prefix="central",
        max_denied_response_body_bytes=4096,
    )
    # An answer is a verdict: nothing of the request is changed by it.
    config.decoder_header_mutation_rules.disallow_all.value = True
    wanted = _headers(conditions)
    if wanted is not None:
        tokens = ("authorization",) if TOKENS in config.metadata_context_namespaces else ()
        for name in sorted({*_ALWAYS, *tokens, *wanted}):
            config.allowed_headers.patterns.append(string_pb2.StringMatcher(exact=name))
    asking = [
        rule for rule in (*policy.deny, *policy.allow) if rule.when and "request.body" in rule.when.uses
    ]
    if asking:
        config.with_request_body.max_request_bytes = MAX_BODY
        config.with_request_body.pack_as_bytes = True
        # Nobody is refused for the sake of what is being tried out: a longer body is as if it were not there.
        config.with_request_body.allow_partial_message = all(rule.mode is Mode.SHADOW for rule in asking)
    return config


def _asks_for_certificate(rule: Rule) -> bool:
    return rule.token is not None and rule.token.certificate


def _namespaces(policy: PortPolicy) -> list[str]:
    rules = (*policy.deny, *policy.allow)
    tokens = [TOKENS] if any(rule.token is not None for rule in rules) else []
    return [*tokens, *([MCP] if policy.is_mcp else [])]


def _unless_allowed(policy: PortPolicy) -> metadata_pb2.MetadataMatcher:
    """Unless a rule of the proxy's own part allowed the call: whatever else it says, or if it says nothing, ask."""
    matcher = metadata_pb2.MetadataMatcher(filter=RBAC, invert=True)
    matcher.path.add(key="enforced_effective_policy_id")
    matcher.value.string_match.safe_regex.regex = rf"(?:{re.escape(policy.service)}|break-glass)/.*"
    return matcher


def _headers(conditions: Iterable[Condition]) -> frozenset[str] | None:
    """The headers that conditions ask for; None if they may ask for any."""
    found: set[str] = set()
    for condition in conditions:
        if "request.headers" not in condition.uses:
            continue
        if condition.tree is None:
            return None
        named = _named_headers(condition.tree)
        if named is None:
            return None
        found |= named
    return frozenset(found)


def _named_headers(tree: ex.Expression) -> set[str] | None:
    found: set[str] = set()
    asked = 0
    for each in ex.walk(tree):
        match each:
            case ex.Name(name="request.headers"):
                asked -= 1
            case ex.Field(operand=ex.Name(name="request.headers"), field=name):
                asked += 1
                found.add(name)
            case ex.Operation(
                function=ex.INDEX, arguments=(ex.Name(name="request.headers"), ex.Constant(str(name)))
            ):
                asked += 1
                found.add(name)
            case ex.Operation(
                function=ex.IN, arguments=(ex.Constant(str(name)), ex.Name(name="request.headers"))
            ):
                asked += 1
                found.add(name)
            case _:
                pass
    return found if asked == 0 else None
