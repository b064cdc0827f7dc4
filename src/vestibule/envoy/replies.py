"""What a caller is told when a proxy itself answers: a code, a sentence, and the id to look for in the logs.

Bodies are JSON.  gRPC callers get the same text as the status message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
from envoy.config.core.v3 import base_pb2
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    LocalReplyConfig,
    ResponseMapper,
)
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy import codes, told
from vestibule.envoy.access_log import KEPT_REQUEST_ID
from vestibule.envoy.central import MAX_BODY
from vestibule.envoy.limits import HEADER
from vestibule.envoy.names import DECIDED
from vestibule.envoy.protos import packed
from vestibule.envoy.rbac import PLAINTEXT_ENDED
from vestibule.envoy.revoked import REVOKED
from vestibule.envoy.revoked_tokens import REVOKED_TOKEN
from vestibule.envoy.tokens import REFUSED_DETAILS, UNASKED
from vestibule.errors import ErrorCode
from vestibule.policy import NOT_NORMAL
from vestibule.policy.codes import BODY_TOO_LARGE, CALL_DENIED, NO_DECISION, TOKEN_REFUSED

REQUEST_ID: Final = "%REQ(X-REQUEST-ID)%"
CALL: Final = "%REQ(:METHOD)% %PATH(NQ:PATH)%"
DENIED_BY: Final = "rbac_access_denied_matched_policy["
_NO_UPSTREAM: Final = ("UF", "UC", "UR", "URX", "LR", "UPE", "NC", "DF")

OUTSIDE: Final = "external:"
"""How the names of routes and clusters begin that lead outside; no service's name has a colon."""


_NOT_SENT: Final = "response.code_details == 'failed_to_inject_credential'"
_REFUSED: Final = ("NR", "DPE", "OM", "DT", "SI", "UMSDR", "IH")


def body(
    code: ErrorCode, message: str, *, request_id: str = REQUEST_ID, **more: str
) -> SubstitutionFormatString:
    """A JSON body; texts may hold Envoy's command operators."""
    text = SubstitutionFormatString()
    text.json_format.update({"error": code.code, "message": message, "request_id": request_id, **more})
    return text


def direct(status: int, code: ErrorCode, message: str) -> route_components_pb2.DirectResponseAction:
    """An answer that stands for a route."""
    return route_components_pb2.DirectResponseAction(
        status=status,
        body=base_pb2.DataSource(inline_string=message),
        body_format=body(code, message),
    )


def ingress(service: str, *, tell_rule: bool, plaintext: bool = False, asked: str = CALL) -> LocalReplyConfig:
    """The answers of a callee's proxy.

    ``tell_rule``: denied callers learn the details (``told``), not only the code.  ``asked`` is what they asked for, to
    people.
    """
    mappers = [
        *_refusals(service, tell_rule=tell_rule, plaintext=plaintext),
        *_decided(service, asked, tell_rule=tell_rule),
        *_denials(service, asked, tell_rule=tell_rule),
        _mapper(
            _status(429),
            body(
                codes.RATE_LIMITED,
                f"{service} takes no more requests for now",
                limit=f"%RESP({HEADER})%",
            ),
        ),
        _mapper(_flags("NFCF"), body(codes.POLICY_NOT_LOADED, f"the proxy of {service} has no policy"), 503),
        *_out_of_time(service),
        _mapper(
            _flags("UH", "UO", *_NO_UPSTREAM),
            body(codes.APP_UNREACHABLE, f"the app of {service} cannot be reached"),
        ),
        _refused(_flags(*_REFUSED)),
    ]
    return LocalReplyConfig(mappers=mappers)


def _refusals(service: str, *, tell_rule: bool, plaintext: bool) -> Iterator[ResponseMapper]:
    """What is refused before any rule is looked at."""
    by_revocation = _cel(f"response.code_details.startsWith('{DENIED_BY}{REVOKED}/')")
    found = [
        (by_revocation, codes.CALLER_REVOKED, REVOKED, "the caller's certificate or identity was revoked"),
        (_denied_by(NOT_NORMAL), codes.PATH_NOT_NORMAL, NOT_NORMAL, "the path is not in its normal form"),
    ]
    if plaintext:
        ended = f"{service} no longer accepts calls in plain text"
        found.append((_denied_by(PLAINTEXT_ENDED), codes.PLAINTEXT_ENDED, PLAINTEXT_ENDED, ended))
    for condition, code, rule, message in found:
        mapper = _mapper(condition, body(code, message))
        yield told.add_header(mapper, code, rule) if tell_rule else mapper
    for code, condition, text in _BAD_TOKENS:
        mapper = _bad_token(code, condition, text.format(service))
        yield told.add_header(mapper, code) if tell_rule else mapper


def _denials(service: str, asked: str, *, tell_rule: bool) -> list[ResponseMapper]:
    """What the proxy's own rules deny."""
    if not tell_rule:
        return [_mapper(_status(403), body(CALL_DENIED, f"{service} does not allow this call"))]
    said = _Said(service, asked)
    details = "response.code_details"
    return [
        said.rule_at(f"response.code == 403 && {details} in {told.DENIALS}", details),
        said.no_rule(_cel(f"response.code == 403 && {_details_of('none')}")),
        said.rule(_status(403), "%RESPONSE_CODE_DETAILS%"),
    ]


@dataclass(frozen=True, slots=True)
class _Said:
    """Answers that say all there is to say."""

    service: str
    asked: str

    def rule_at(self, condition: str, key: str) -> ResponseMapper:
        """A rule denies that the route knows by this key."""
        return self.rule(_cel(condition), told.looked_up(key, 0), told.looked_up(key, 1))

    def rule(self, condition: AccessLogFilter, rule: str, where: str = told.FILE) -> ResponseMapper:
        """A rule denies."""
        message = f"a rule of {self.service} denies {self.asked} to {_CALLER}"
        text = body(CALL_DENIED, message, rule=rule, where=where, intent_version=told.VERSION)
        return told.add_header(_mapper(condition, text), CALL_DENIED, rule, where)

    def no_rule(self, condition: AccessLogFilter) -> ResponseMapper:
        """No rule allows it."""
        message = f"no rule of {self.service} allows {self.asked} to {_CALLER}"
        text = body(CALL_DENIED, message, rule="none", where=told.FILE, intent_version=told.VERSION)
        return told.add_header(_mapper(condition, text), CALL_DENIED, where=told.FILE)


_CALLER: Final = "%DOWNSTREAM_PEER_URI_SAN%"


_BAD_TOKENS: Final = (
    (TOKEN_REFUSED, REFUSED_DETAILS, "{} does not accept the token of this call"),
    (codes.TOKEN_REVOKED, f"{DENIED_BY}{REVOKED_TOKEN}/", "the token of this call was revoked"),
    (codes.TOKEN_UNASKED, f"{DENIED_BY}{UNASKED}]", "{} takes no calls with an Authorization header"),
)
"""By how the details of such denials begin."""


def _bad_token(code: ErrorCode, details: str, message: str) -> ResponseMapper:
    """A token was there, and nobody may rely on it (RFC 6750, section 3.1)."""
    mapper = _mapper(_cel(f"response.code_details.startsWith('{details}')"), body(code, message), 401)
    challenge = mapper.headers_to_add.add()
    challenge.append_action = challenge.OVERWRITE_IF_EXISTS_OR_ADD
    challenge.header.key, challenge.header.value = "www-authenticate", 'Bearer error="invalid_token"'
    return mapper


def _decided(service: str, asked: str, *, tell_rule: bool) -> list[ResponseMapper]:
    """What comes of the question to a decision service, if the call does not go on (``central``)."""
    refused = "response.code_details == 'ext_authz_denied' && response.code == 403"
    denials = [_mapper(_cel(refused), body(CALL_DENIED, f"{service} does not allow this call"))]
    if tell_rule:
        said = _Said(service, asked)
        metadata = f"metadata.filter_metadata['{DECIDED}']"
        by_a_rule = f"{refused} && 'rule' in {metadata}"
        denials = [
            said.rule_at(f"{by_a_rule} && {metadata}['rule'] in {told.DENIALS}", f"{metadata}['rule']"),
            said.rule(_cel(by_a_rule), f"%DYNAMIC_METADATA({DECIDED}:rule)%"),
            said.no_rule(_cel(refused)),
        ]
    undecided = body(NO_DECISION, f"there is no decision whether {service} allows this call")
    too_large = body(BODY_TOO_LARGE, f"{service} looks at bodies of at most {MAX_BODY} bytes")
    return [
        *denials,
        _mapper(_cel("response.code_details in ['ext_authz_denied', 'ext_authz_error']"), undecided),
        _mapper(_cel("response.code_details == 'request_payload_too_large'"), too_large),
    ]


def egress() -> LocalReplyConfig:
    """The answers of a caller's proxy."""
    called = "%ROUTE_NAME%"
    mappers = [
        _mapper(_flags("UO"), body(codes.TOO_MANY_CALLS, f"too many calls to {called} are under way")),
        *_outside(called),
        _mapper(
            _cel(_NOT_SENT),
            body(codes.TOKEN_NOT_SENT, f"the sidecar has no token for {called}"),
            503,
        ),
        *_out_of_time(called),
        _mapper(_flags("FI"), body(codes.FAULT_INJECTED, f"a fault was injected into {called}")),
        _mapper(_flags("UH"), body(codes.NO_INSTANCE, f"{called} has no running instance")),
        _mapper(_flags(*_NO_UPSTREAM), body(codes.CALLEE_UNREACHABLE, f"{called} cannot be reached")),
        _refused(_flags(*_REFUSED)),
    ]
    return LocalReplyConfig(mappers=mappers)


def gateway() -> LocalReplyConfig:
    """The answers of a gateway, to people outside: nothing about what is inside."""
    mappers = [
        _bad_token(TOKEN_REFUSED, REFUSED_DETAILS, "what is there does not accept the token of this call"),
        _mapper(_cel(_NOT_SENT), body(codes.TOKEN_NOT_SENT, "what is there cannot be reached"), 503),
        _mapper(_flags("UO"), body(codes.TOO_MANY_CALLS, "too much is going on at the moment")),
        _mapper(_flags("UT"), body(codes.CALL_TIMEOUT, "there was no answer in time")),
        _mapper(_flags("UH"), body(codes.NO_INSTANCE, "what is there does not run at the moment")),
        _mapper(_flags(*_NO_UPSTREAM), body(codes.CALLEE_UNREACHABLE, "what is there cannot be reached")),
        _refused(_flags(*_REFUSED)),
    ]
    return LocalReplyConfig(mappers=mappers)


def _outside(called: str) -> list[ResponseMapper]:
    """The answers about hosts outside, where the caller's own proxy is the only one, and so decides."""

    def mapper(
        what: str, code: ErrorCode, message: str, status: int | None = None, **more: str
    ) -> ResponseMapper:
        text = body(code, message, request_id=KEPT_REQUEST_ID, **more)
        return _mapper(_cel(f"xds.route_name.startsWith('{OUTSIDE}') && {what}"), text, status)

    details, why = "%RESPONSE_CODE_DETAILS%", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
    untrusted = "upstream.transport_failure_reason.contains('CERTIFICATE_VERIFY_FAILED')"
    denied = "response.code_details.startsWith('rbac_access_denied')"
    unresolved = "response.code_details.startsWith('no_healthy_upstream')"
    return [
        mapper(_details_of(NOT_NORMAL), codes.PATH_NOT_NORMAL, "the path is not in its normal form"),
        mapper(denied, CALL_DENIED, f"no rule of {called} allows this call", rule=details),
        mapper(
            _NOT_SENT,
            codes.CREDENTIAL_MISSING,
            f"the sidecar has no credential for {called}",
            503,
        ),
        mapper(
            "upstream.transport_failure_reason.contains('not supplied by SDS')",
            codes.OUTSIDE_UNVERIFIABLE,
            f"there are no authorities here to verify {called} by",
        ),
        mapper(
            untrusted, codes.OUTSIDE_NOT_TRUSTED, f"{called} showed a certificate that is not accepted: {why}"
        ),
        mapper(
            "response.code_details == 'local_rate_limited'",
            codes.RATE_LIMITED,
            f"no more requests to {called} go out for now",
            limit=f"%RESP({HEADER})%",
        ),
        mapper("response.code == 504", codes.CALL_TIMEOUT, f"{called} did not answer in time"),
        mapper(unresolved, codes.OUTSIDE_UNRESOLVED, f"there is no address to dial for {called}"),
        mapper("response.code == 503", codes.OUTSIDE_UNREACHABLE, f"{called} cannot be reached: {why}"),
    ]


def _out_of_time(called: str) -> list[ResponseMapper]:
    """The second is how gRPC calls and streams end, at either side: the callee's knows the deadline, too."""
    conditions = (_flags("UT"), _cel("response.code_details == 'max_duration_timeout'"))
    text = body(codes.CALL_TIMEOUT, f"{called} did not answer in time")
    return [_mapper(condition, text) for condition in conditions]


def _refused(condition: AccessLogFilter) -> ResponseMapper:
    return _mapper(
        condition, body(codes.PROXY_REFUSED, "the proxy refused the request: %RESPONSE_CODE_DETAILS%")
    )


def _mapper(
    condition: AccessLogFilter,
    text: SubstitutionFormatString,
    status: int | None = None,
) -> ResponseMapper:
    mapper = ResponseMapper(filter=condition, body_format_override=text)
    if status is not None:
        mapper.status_code.CopyFrom(UInt32Value(value=status))
    return mapper


def _status(status: int) -> AccessLogFilter:
    comparison = accesslog_pb2.ComparisonFilter(
        op=accesslog_pb2.ComparisonFilter.EQ,
        value=base_pb2.RuntimeUInt32(default_value=status, runtime_key="vestibule.unset"),
    )
    return AccessLogFilter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison))


def _flags(*flags: str) -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=flags))


def _denied_by(name: str) -> AccessLogFilter:
    # The RBAC filter writes its metadata only after the reply, so the reply's details have to tell.
    return _cel(_details_of(name))


def _details_of(name: str) -> str:
    return f"response.code_details == '{DENIED_BY}{name}]'"


def _cel(text: str) -> AccessLogFilter:
    expression = cel_pb2.ExpressionFilter(expression=text)
    return AccessLogFilter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=packed(expression)
        )
    )
