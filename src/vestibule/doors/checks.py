"""Facts out of an Envoy's question, and a verdict as its answer (envoy.service.auth.v3).

An answer is always a decision: whatever goes wrong here is an explicit refusal, with 503 where nobody was judged.  An
error of the protocol would be left to the asking Envoy, which may be told to let calls through then.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from envoy.service.auth.v3 import external_auth_pb2 as pb
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.policy import Call, Decision, McpCall
from vestibule.policy.codes import CALL_DENIED, NO_DECISION, NO_POLICY_HERE, UNREADABLE_CHECK
from vestibule.policy.deciders import Decider
from vestibule.spiffe import SpiffeId

SERVICE_KEY: Final = "service"
PORT_KEY: Final = "port"
OWN: Final = "vestibule"
"""Where in a route's metadata a sidecar says which port is meant."""

FOREIGN_SERVICE: Final = "vestibule.service"
FOREIGN_PORT: Final = "vestibule.port"
"""The context extensions by which other Envoys say the same."""

TOKENS: Final = "envoy.filters.http.jwt_authn"
MCP: Final = "envoy.filters.http.mcp"

_MCP_REPLY: Final = "__jsonrpc_response"
"""What Envoy calls a client's reply to its server."""

MOST_HEADERS: Final = 200
"""Headers of one request that are looked at; with more it is refused."""
WARN_SECONDS: Final = 10.0
"""Between two warnings of one kind."""
_KEPT_CALLERS: Final = 4096
_DENIED: Final = 403
_UNDECIDED: Final = 503

_log = logging.getLogger(__name__)

Find = Callable[[str, str], Decider | None]
"""Who decides about a port of a service, by their names."""


class Answering:
    """Answers questions, each by itself.  ``find`` knows the policies that may be asked about.

    ``explains``: refusals have a body, as those have whose asking Envoy writes none.  ``counts`` counts answers:
    ``allowed``, ``denied``, ``undecided``.
    """

    def __init__(
        self,
        find: Find,
        *,
        explains: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        counts: Counter[str] | None = None,
    ) -> None:
        self._find = find
        self._explains = explains
        self._now = now
        self._warned: dict[str, float] = {}
        self._counts = Counter[str]() if counts is None else counts

    def answer(self, data: bytes) -> bytes:
        """A serialised ``CheckRequest`` → a serialised ``CheckResponse``."""
        try:
            asked = pb.CheckRequest.FromString(data).attributes
        except DecodeError:
            return self._undecided(UNREADABLE_CHECK, "the question cannot be read", "")
        request_id = str(asked.request.http.id)
        try:
            service, port = meant(asked)
            decider = self._find(service, port)
            if decider is None:
                text = f"there is no policy of {service}/{port}"
                return self._undecided(NO_POLICY_HERE, text, request_id)
            call = call_of(asked, port, decider, self._now)
            return self._decided(decider.engine.decide(call), decider, request_id)
        except VestibuleError as error:
            return self._undecided(error.code, error.message, request_id)
        except Exception:  # noqa: BLE001 - whatever it is, the call is refused and the log gets the trace
            _log.exception("a question could not be answered")
            return self._undecided(NO_DECISION, "the question could not be answered", request_id)

    def _decided(self, decision: Decision, decider: Decider, request_id: str) -> bytes:
        self._counts["allowed" if decision.allowed else "denied"] += 1
        head = _head(decision, decider.version)
        if decision.allowed or not self._explains:
            return head + _named(secrets.token_hex(8))
        policy = decider.engine.policy
        more = {"rule": decision.rule or "", "intent_version": decider.version} if decider.tells_rule else {}
        body = _body(CALL_DENIED, f"{policy.service} does not allow this call", request_id, more)
        return head + body + _named(secrets.token_hex(8))

    def _undecided(self, code: ErrorCode, message: str, request_id: str) -> bytes:
        self._counts["undecided"] += 1
        self._warn(code, message)
        response = _refusal(_UNDECIDED)
        response.dynamic_metadata.update({"error": code.code})
        head: bytes = response.SerializeToString()
        # What is wrong is for the log: callers learn that there was no decision.
        more = _body(NO_DECISION, NO_DECISION.meaning, request_id, {}) if self._explains else b""
        return head + more + _named(secrets.token_hex(8))

    def _warn(self, code: ErrorCode, message: str) -> None:
        """Of each kind once in a while: whoever asks decides how often this happens."""
        now = time.monotonic()
        if now >= self._warned.get(code.code, 0.0):
            self._warned[code.code] = now + WARN_SECONDS
            _log.warning("a call was refused without a decision: %s %s", code.code, message)


@lru_cache(maxsize=8192)
def _head(decision: Decision, version: str) -> bytes:
    """The verdict and what is kept of it for the access log."""
    response = pb.CheckResponse(ok_response=pb.OkHttpResponse()) if decision.allowed else _refusal(_DENIED)
    said: dict[str, Any] = {"verdict": "allowed" if decision.allowed else "denied"}
    if decision.rule is not None:
        said["rule"] = decision.rule
    if decision.shadow is not None:
        said["shadow_verdict"] = "allowed" if decision.shadow.allowed else "denied"
        said["shadow_rule"] = decision.shadow.rule or ""
    if version:
        said["intent_version"] = version
    response.dynamic_metadata.update(said)
    written: bytes = response.SerializeToString()
    return written


def _refusal(status: int) -> Any:
    response = pb.CheckResponse()
    response.status.code = code_pb2.PERMISSION_DENIED
    response.denied_response.status.code = status
    return response


def _named(decision_id: str) -> bytes:
    """The decision's id, in a message that follows another: protobuf reads both as one."""
    return _BEFORE_ID + decision_id.encode()


def _prefix_of_id() -> bytes:
    response = pb.CheckResponse()
    response.dynamic_metadata.update({"decision_id": "0" * 16})
    written: bytes = response.SerializeToString()
    assert written.endswith(b"0" * 16)
    return written[:-16]


_BEFORE_ID: Final = _prefix_of_id()


def _body(code: ErrorCode, message: str, request_id: str, more: Mapping[str, str]) -> bytes:
    """As sidecars write it (``envoy.replies``)."""
    response = pb.CheckResponse()
    text = {"error": code.code, "message": message, "request_id": request_id, **more}
    response.denied_response.body = json.dumps(text, ensure_ascii=True)
    header = response.denied_response.headers.add().header
    header.key, header.value = "content-type", "application/json"
    written: bytes = response.SerializeToString()
    return written


# ---------------------------------------------------------------------------------------------------- facts


def meant(asked: Any) -> tuple[str, str]:
    """The names of the service and port that are meant.  Raises: VST4132."""
    extensions = asked.context_extensions
    if FOREIGN_SERVICE in extensions:
        return extensions[FOREIGN_SERVICE], extensions[FOREIGN_PORT]
    own = asked.route_metadata_context.filter_metadata.get(OWN)
    if own is None or SERVICE_KEY not in own.fields or PORT_KEY not in own.fields:
        raise UNREADABLE_CHECK.error(
            f"a question does not say by {FOREIGN_SERVICE} and {FOREIGN_PORT} what is meant"
        )
    return own.fields[SERVICE_KEY].string_value, own.fields[PORT_KEY].string_value


def call_of(asked: Any, port: str, decider: Decider, now: Callable[[], datetime]) -> Call:
    """What is known of the call.  Raises: VST4132, VST1400."""
    http = asked.request.http
    headers = headers_of(http)
    return Call(
        caller=_caller(asked.source.principal),
        port=port,
        method=http.method,
        path=http.path,
        host=http.host,
        headers=headers,
        time=asked.request.time.ToDatetime(UTC) if asked.request.HasField("time") else now(),
        tokens=_tokens(asked.metadata_context.filter_metadata, headers.get("authorization", ""), decider),
        mcp=_mcp(asked.metadata_context.filter_metadata) if decider.engine.policy.is_mcp else None,
        body=_json_of(http),
        attributes=attributes_of(asked),
        certificate=_digest(asked.source.certificate) if asked.source.certificate else "",
    )


@lru_cache(maxsize=_KEPT_CALLERS)
def _caller(principal: str) -> SpiffeId:
    """Envoy puts a DNS name or a subject in the place of a URI that a certificate lacks: nobody of ours."""
    if not principal.startswith("spiffe://"):
        raise UNREADABLE_CHECK.error("the caller showed no certificate with a SPIFFE ID")
    return SpiffeId.parse(principal)


@lru_cache(maxsize=_KEPT_CALLERS)
def _digest(pem: str) -> str:
    """The SHA-256 of a certificate as Envoy writes it: PEM with URL escapes.  Empty if it is none."""
    body = _PEM.fullmatch(unquote(pem).strip())
    try:
        return "" if body is None else hashlib.sha256(base64.b64decode(body[1])).hexdigest()
    except ValueError:
        return ""


_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def headers_of(http: Any) -> dict[str, str]:
    """Headers by lower-case name; of several of one name the values are joined by commas.  Raises: VST4132."""
    found: dict[str, str] = {}
    if http.HasField("header_map"):
        raw = http.header_map.headers
        if len(raw) > MOST_HEADERS:
            raise UNREADABLE_CHECK.error(f"the request has {len(raw)} headers; {MOST_HEADERS} are looked at")
        for each in raw:
            name = each.key.lower()
            # What is no UTF-8 stays such as no condition takes for a text.
            value = each.value or each.raw_value.decode("utf-8", "surrogateescape")
            found[name] = f"{found[name]},{value}" if name in found else value
        return found
    if len(http.headers) > MOST_HEADERS:
        raise UNREADABLE_CHECK.error(
            f"the request has {len(http.headers)} headers; {MOST_HEADERS} are looked at"
        )
    return {name.lower(): value for name, value in http.headers.items()}


def attributes_of(asked: Any) -> dict[str, Any]:
    """What the asking Envoy adds in its context extensions, other than what names the port."""
    extensions = asked.context_extensions
    if not extensions:
        return {}
    return {name: value for name, value in extensions.items() if not name.startswith("vestibule.")}


def _json_of(http: Any) -> Any:
    """The body as JSON; None, which is as if it were not there, if it is none."""
    raw = http.raw_body or http.body.encode()
    if not raw:
        return None
    return json_of(raw)


def json_of(raw: bytes) -> Any:
    """JSON without what could be read in two ways: None for anything else.

    Keys that occur twice, NaN and the like, and numbers beyond 64 bits are such.
    """
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_none_such, parse_int=_bounded
        )
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _none_such(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _bounded(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 2**64
    if not -(2**63) <= number < 2**63:
        raise ValueError("a number is too large")
    return number


def _tokens(
    metadata: Mapping[str, Any], authorization: str, decider: Decider
) -> dict[str, Mapping[str, Any]]:
    """The claims of the tokens that the proxy verified, by issuer; without those that no rule may rely on.

    As proxies look at them (``envoy.tokens``): one token in one header; of own issuers, access tokens.
    """
    verified = metadata.get(TOKENS) if metadata else None
    if verified is None or _ONE_TOKEN.fullmatch(authorization) is None:
        return {}
    told = json_format.MessageToDict(verified)
    found: dict[str, Mapping[str, Any]] = {}
    for name, claims in told.items():
        if name.endswith(_HEADER) or not isinstance(claims, dict):
            continue
        header = told.get(name + _HEADER)
        kind = str(header.get("typ", "")) if isinstance(header, dict) else ""
        is_svid = name in decider.engine.svids
        is_own = _is_own(str(claims.get("iss", "")), decider.trust_domain)
        if is_svid or not is_own or _ACCESS_TOKEN.fullmatch(kind):
            found[name] = claims
    return found


_HEADER: Final = "#header"
_ONE_TOKEN: Final = re.compile(r"Bearer e[^,]*")
_ACCESS_TOKEN: Final = re.compile(r"(?:application/)?at\+jwt", re.IGNORECASE)  # RFC 9068, section 2.1


def _is_own(issuer: str, trust_domain: str) -> bool:
    host = issuer.partition("://")[2].partition("/")[0].partition(":")[0]
    return host == trust_domain or host.endswith(f".{trust_domain}")


def _mcp(metadata: Mapping[str, Any]) -> McpCall | None:
    seen = metadata.get(MCP)
    if seen is None:
        return None
    told = json_format.MessageToDict(seen)
    parameters = told.get("params")
    parameters = parameters if isinstance(parameters, dict) else {}
    target = parameters.get("name", parameters.get("uri"))
    method = told.get("method")
    if method == _MCP_REPLY:
        method = None
    return McpCall(
        method=method if isinstance(method, str) else None, target=target if isinstance(target, str) else None
    )
