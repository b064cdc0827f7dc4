"""The small texts of the language: names, durations, methods, callers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.intent import codes
from vestibule.intent.problems import nearest
from vestibule.policy import IdentityMatch, McpCall, PathPattern
from vestibule.policy.mcp import KNOWN_METHODS, RESOURCE_METHODS, mcp_refusal
from vestibule.spiffe import TrustDomain

NAME: Final = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
VERSION: Final = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
MIRROR_TARGET: Final = rf"({VERSION}|service:{NAME}(/{NAME})?)"
RATE: Final = r"[0-9]{1,7}/(s|m|h)"
PERCENTAGE: Final = r"([1-9][0-9]?|100)%"
REGION: Final = VERSION
GRPC_SERVICE: Final = r"([A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*)?"
DURATION: Final = r"[0-9]{1,9}(ms|s|m|h)"
INSTANT: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})"
# RFC 9110, section 5.1, in lower case.
HEADER: Final = r"[a-z0-9!#$%&'*+.^_`|~-]{1,200}"
CALLER: Final = rf"({NAME}|role:{NAME}|spiffe://\S+)"
# What HTTP proxies and servers know; TRACE and CONNECT are not for services.
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ANYONE: Final = "anyone"
CLAIM: Final = r"[!-~]{1,200}"
SCOPE: Final = r"[!#-\[\]-~]{1,200}"
ISSUER: Final = r"[!-~]{1,500}"
AUDIENCE: Final = ISSUER
TARGET: Final = r"[!-)+-~]{0,500}\*?"
MOST_OF_CLAIM: Final = 500
OWN_METHOD: Final = r"[a-z][A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)+"
# Names that mean something else on every host, or begin the names of what decides without being a rule: rules of such a
# service could be taken for it, and proxies tell by that name whether a decision service has yet to be asked.
NOT_SERVICES: Final = frozenset({"localhost", "break-glass", "vestibule", ANYONE})
LONGEST: Final = timedelta(hours=1)
MOST_REQUESTS: Final = 1_000_000
_UNITS: Final = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours"}
_HEADERS_OF_PROXIES: Final = frozenset(
    {"host", "connection", "content-length", "te", "transfer-encoding", "upgrade", "x-request-id"}
    | {"forwarded", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-proto"}
)
_SET_FOR_APPS: Final = re.compile(
    r"PORT|(?:https?|no|all)_proxy|SPIFFE_ENDPOINT_SOCKET|VESTIBULE_.*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ServiceCaller:
    """A caller given by the name of its service."""

    name: str


@dataclass(frozen=True, slots=True)
class RoleCaller:
    """Callers given by a role of ``mesh.yaml``."""

    name: str


@dataclass(frozen=True, slots=True)
class AnyCaller:
    """Everybody who has an identity: ``from: anyone``."""

    def __str__(self) -> str:
        return ANYONE


Caller = ServiceCaller | RoleCaller | IdentityMatch | AnyCaller


@dataclass(frozen=True, slots=True)
class Membership:
    """A member of a role; ``until`` is when that ends."""

    who: Caller
    until: datetime | None = None


def name(text: str) -> str:
    """A name that is a DNS label beginning with a letter.  Raises: VST0024."""
    if re.fullmatch(NAME, text):
        return text
    raise codes.MALFORMED_NAME.error(f"{shown(text)} is not a name")


def service_name(text: str) -> str:
    """A service's name, which callers use as a host.  Raises: VST0024."""
    if text in NOT_SERVICES:
        raise codes.MALFORMED_NAME.error(
            f"{text!r} means something else and cannot be a service", advice="Choose another name."
        )
    return name(text)


def version(text: str) -> str:
    """A version of a service, as its instances register it.  Raises: VST0025."""
    if re.fullmatch(VERSION, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a version", advice="Use letters, digits, '.', '_' and '-', such as v1."
    )


def line(text: str) -> str:
    """A text of one line that is not empty.  Raises: VST0025."""
    if text.strip() and not re.search(r"[\n\t]", text):
        return text
    raise codes.MALFORMED_VALUE.error(
        "a text is empty or has several lines", advice="Write one line of text."
    )


def anything(text: str) -> str:
    """Any text."""
    return text


def variable(text: str) -> str:
    """An environment variable that an app's owner may set.  Raises: VST0025."""
    if not re.fullmatch(VARIABLE, text):
        raise codes.MALFORMED_VALUE.error(
            f"{shown(text)} is not the name of an environment variable",
            advice="Use letters, digits and '_', not beginning with a digit.",
        )
    if _SET_FOR_APPS.fullmatch(text):
        raise codes.MALFORMED_VALUE.error(
            f"the variable {shown(text)} is set by Vestibule", advice="Remove it, or use another name."
        )
    return text


def duration(text: str) -> timedelta:
    """A time span such as ``500ms``, ``5s``, ``2m``, ``1h``.  Raises: VST0025."""
    advice = "Write a whole number and its unit, such as 500ms, 5s, 2m or 1h."
    match = re.fullmatch(r"([0-9]{1,9})(ms|s|m|h)", text)
    if not match:
        raise codes.MALFORMED_VALUE.error(f"{shown(text)} is not a duration", advice=advice)
    span = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if not timedelta(0) < span <= LONGEST:
        raise codes.MALFORMED_VALUE.error(f"{text!r} is not between 1ms and 1h", advice=advice)
    return span


def rate(text: str) -> tuple[int, timedelta]:
    """How many in which time, such as ``100/s``.  Raises: VST0025."""
    match = re.fullmatch(r"([0-9]{1,7})/(s|m|h)", text)
    if match and 0 < int(match[1]) <= MOST_REQUESTS:
        return int(match[1]), timedelta(**{_UNITS[match[2]]: 1})
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a rate",
        advice=f"Write a number from 1 to {MOST_REQUESTS} and a unit of time, such as 100/s, 5/m or 1000/h.",
    )


def percentage(text: str) -> int:
    """A part of a hundred, such as ``10%``.  Raises: VST0025."""
    if re.fullmatch(PERCENTAGE, text):
        return int(text[:-1])
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a part of a hundred", advice="Write 1% to 100%, in whole numbers."
    )


def region(text: str) -> str:
    """A region, as agents say where they are.  Raises: VST0025."""
    if re.fullmatch(REGION, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a region", advice="Use letters, digits, '.', '_' and '-', such as eu-west."
    )


def strict(text: str) -> str:
    """The word ``strict``.  Raises: VST0025."""
    if text == "strict":
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not one of strict",
        advice="Write strict; in a service's file also {permissive_until: 2026-12-31T18:00:00Z, reason: …}.",
    )


def check_path(text: str) -> str:
    """A path that is asked for as it is, perhaps with a query.  Raises: VST0025."""
    if re.fullmatch(r"/[!-~]*", text) and "#" not in text:
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a path", advice="Write it as it is asked for, such as /healthz."
    )


def grpc_service(text: str) -> str:
    """The full name of a gRPC service, or nothing.  Raises: VST0025."""
    if re.fullmatch(GRPC_SERVICE, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a gRPC service", advice="Write its full name, such as shop.v1.Payments."
    )


def instant(text: str) -> datetime:
    """An instant with its offset from UTC, such as ``2026-12-31T18:00:00Z``.  Raises: VST0025."""
    if re.fullmatch(INSTANT, text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not an instant",
        advice="Write date, time and offset, such as 2026-12-31T18:00:00Z or 2026-12-31T18:00:00+01:00.",
    )


def header(text: str) -> str:
    """The name of a header that an app may send or look at.  Raises: VST0025."""
    if not re.fullmatch(HEADER, text):
        advice = f"Write {text.lower()}." if re.fullmatch(HEADER, text.lower()) else None
        raise codes.MALFORMED_VALUE.error(f"{shown(text)} is not a header name in lower case", advice=advice)
    if text.startswith("x-envoy-") or text in _HEADERS_OF_PROXIES:
        raise codes.MALFORMED_VALUE.error(
            f"the header {shown(text)} belongs to the proxies", advice="Use another header."
        )
    return text


def parameter(text: str) -> str:
    """The name of a query parameter.  Raises: VST0025."""
    if text and len(text) <= 200 and not re.search(r"[\s&=#]", text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not the name of a query parameter", advice="Leave out spaces, '&', '=' and '#'."
    )


def prefix(text: str) -> str:
    """What stands before a secret in a header.  Raises: VST0025."""
    if re.fullmatch(r"[ -~]{0,100}", text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} cannot stand in a header", advice="Use printable ASCII, such as 'Bearer '."
    )


def value(text: str) -> str:
    """The value of a header or query parameter.  Raises: VST0025."""
    if re.search(r"[\n\t]", text) or not text.isascii() or text != text.strip():
        raise codes.MALFORMED_VALUE.error(
            f"{shown(text)} is not a value that can be compared",
            advice="Use one line of ASCII without spaces around it.",
        )
    return text


def mirror_target(text: str) -> str | tuple[str, str | None]:
    """A version, or a service and perhaps its port from ``service:NAME/PORT``.  Raises: VST0024, VST0025."""
    if not text.startswith("service:"):
        return version(text)
    service, slash, port = text.removeprefix("service:").partition("/")
    return name(service), name(port) if slash else None


def plain_path(text: str) -> str:
    """A path that requests can have: no query, no wildcards.  Raises: VST4010, VST0025."""
    found = PathPattern.parse(text)
    if found.below or not found.is_literal:
        raise codes.MALFORMED_VALUE.error(
            f"{shown(text)} is a pattern, where one path is meant", advice="Write the path itself."
        )
    return text


def method(text: str) -> str:
    """An HTTP method.  Raises: VST0025."""
    if text in METHODS:
        return text
    close = nearest(text, METHODS)
    advice = f"Did you mean {close!r}?" if close else f"Use {', '.join(METHODS)}."
    raise codes.MALFORMED_VALUE.error(f"{shown(text)} is not a method that rules know", advice=advice)


def trust_domain(text: str) -> TrustDomain:
    """A trust domain in its canonical form.  Raises: VST1400, VST0025."""
    domain = TrustDomain.parse(text)
    if domain.name != text:
        raise codes.MALFORMED_VALUE.error(
            f"the trust domain {shown(text)} is not in its plain form", advice=f"Write {domain.name}."
        )
    return domain


def caller(text: str) -> Caller:
    """A service, ``role:NAME``, a SPIFFE ID, or a SPIFFE ID and ``/**``.  Raises: VST0024, 0025, 1400, 4011."""
    if text == ANYONE:
        raise codes.MALFORMED_VALUE.error(
            "'anyone' is not one caller among others", advice="Write `from: anyone`, or name the callers."
        )
    if "://" in text:
        return IdentityMatch.parse(text)
    if text.startswith("role:"):
        return RoleCaller(name(text.removeprefix("role:")))
    return ServiceCaller(name(text))


def member(text: str) -> Membership:
    """A member of a role that is one for good.  Raises: as ``caller``."""
    return Membership(caller(text))


def claim(text: str) -> str:
    """The name of a claim of a token (RFC 7519, section 4).  Raises: VST0025."""
    if re.fullmatch(CLAIM, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not the name of a claim", advice="Use printable ASCII without spaces."
    )


def text_of_claim(text: str) -> str:
    """What a claim must be.  Raises: VST0025."""
    if text and len(text) <= MOST_OF_CLAIM and not re.search(r"[\n\t]", text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a text that can be compared",
        advice=f"Use one line of at most {MOST_OF_CLAIM} characters.",
    )


def scope(text: str) -> str:
    """One scope of a token (RFC 6749, section 3.3).  Raises: VST0025."""
    if re.fullmatch(SCOPE, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a scope",
        advice="Write one scope an item, without spaces, such as charge:write.",
    )


def issuer(text: str) -> str:
    """The ``iss`` claim of an issuer's tokens: a URL or another name.  Raises: VST0025."""
    if re.fullmatch(ISSUER, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not an issuer",
        advice="Write it as `iss` has it, such as https://tokens.example.org.",
    )


def audience(text: str) -> str:
    """Whom a token is for (RFC 7519, section 4.1.3): a name or a URI, without blanks.  Raises: VST0025."""
    if re.fullmatch(AUDIENCE, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not an audience",
        advice="Write a name or a URI, such as reports or https://api.example.org.",
    )


def tool(text: str) -> str:
    """The name or URI of what an MCP server offers, perhaps with ``*`` for any ending.  Raises: VST0025."""
    if text and re.fullmatch(TARGET, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a name or URI",
        advice="Write it as the server lists it, without spaces; a '*' may stand at its end for any ending.",
    )


def resource(text: str) -> str:
    """The URI of an MCP server's resource, perhaps with ``*`` for any ending.  Raises: VST0025."""
    tool(text)
    example = text[:-1] + "x" if text.endswith("*") else text
    if mcp_refusal(McpCall(method=RESOURCE_METHODS[0], target=example), frozenset()) is None:
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} could be written otherwise, so that requests for it are refused",
        advice="Write it in its plain form: the scheme in lower case, no dot segments, no needless escape.",
    )


def mcp_method(text: str) -> str:
    """A JSON-RPC method of MCP.  Raises: VST0025."""
    family = text.partition("/")[0]
    known = any(each.startswith(f"{family}/") for each in KNOWN_METHODS)
    if text in KNOWN_METHODS or (re.fullmatch(OWN_METHOD, text) and not known):
        return text
    close = nearest(text, KNOWN_METHODS)
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a method of MCP",
        advice=f"Did you mean {close!r}?" if close else f"Known methods: {', '.join(KNOWN_METHODS)}.",
    )


def shown(text: str) -> str:
    """A text as messages show it, cut short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
