"""The keys of a lone sidecar's file: those of the intent, and what a control plane would know otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.intent import (
    addresses,
    bounds_keys,
    language,
    outside_keys,
    rule_keys,
    service_keys,
    traffic_keys,
)
from vestibule.intent.codes import MALFORMED_VALUE
from vestibule.intent.nodes import Broken, Node
from vestibule.intent.outside import HostPort
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import WordOrNumber
from vestibule.intent.shapes import At, Key, Many, Record, Schema, Shape, Table, Text, Whole
from vestibule.intent.terms import NAME, SERVICE_NAME, pattern
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that is handed on as it stands, to be read as part of an intent's file."""

    shape: Shape[Any]

    def read(self, node: Node, findings: Findings) -> At[Node] | None:
        return None if isinstance(node, Broken) else At(node, node.at)

    def schema(self) -> Schema:
        return self.shape.schema()


def kept(key: Key[Any]) -> Key[Node]:
    """The key of the intent, unread."""
    return Key(key.name, Kept(key.shape), key.doc, key.required, key.default)


def _identity(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except VestibuleError as error:
        raise MALFORMED_VALUE.error(error.message, advice="Write spiffe://TRUST-DOMAIN/PATH.") from error


_PORT: Final = Whole(1, 65535)
_IDENTITY: Final = Text(_identity, pattern(r"spiffe://[a-z0-9._-]{1,255}/.+"), "a SPIFFE ID")
_PLACE: Final = Text(addresses.ip_and_port, pattern(addresses.HOST_AND_PORT))
_LOCAL: Final = Key("listen", _PORT, "The port on 127.0.0.1 where the app finds it; chosen when left out.")

# ------------------------------------------------------------------------------------------ the sidecar itself

IDENTITY: Final = Key(
    "identity", _IDENTITY, "The SPIFFE ID as which it speaks; its agent must give it this one.", required=True
)
MESH: Final = Key(
    "mesh", NAME, "The name of the mesh that it may move into; NAME.MESH is a host name, too.", default="lone"
)
ENVIRONMENT: Final = Key(
    "environment", NAME, "The environment; the one in identity (/ns/ENVIRONMENT/sa/NAME), when left out."
)
ADDRESS: Final = Key(
    "address",
    Text(addresses.ip_address, pattern(addresses.IP)),
    "The address of this machine where others reach its ports, unless a port says otherwise.",
    default="127.0.0.1",
)
LISTEN: Final = Key(
    "listen",
    WordOrNumber(_PLACE, _PORT),
    "Where others reach the port by mutual TLS: a port at address, or an IP address and a port.",
    required=True,
)
_PORT_RECORD: Final = Record("a lone sidecar's port", (*service_keys.PORT_RECORD.keys, LISTEN))
PORTS: Final = Key(
    "ports",
    Table(NAME, Kept(_PORT_RECORD), "port names to ports"),
    "Where the app listens, and where others reach it.",
)


def _opaque(text: str) -> range:
    """``5432``, or ``9000-9010``.  Raises: VST0025."""
    first, _, last = text.partition("-")
    numbers = (first, last or first)
    if all(each.isascii() and each.isdigit() and len(each) <= 5 for each in numbers):
        found = range(int(numbers[0]), int(numbers[1]) + 1)
        if found and found[0] > 0 and found[-1] <= 65535 and len(found) <= _MOST_OPAQUE:
            return found
    raise MALFORMED_VALUE.error(
        f"{text[:40]!r} is not a port or a range of at most {_MOST_OPAQUE}", advice="Write 5432 or 9000-9010."
    )


_MOST_OPAQUE: Final = 64
OPAQUE_PORTS: Final = Key(
    "opaque_ports",
    Many(
        WordOrNumber(Text(_opaque, pattern("[0-9]{1,5}-[0-9]{1,5}")), _PORT),
        "port",
        least=1,
        most=_MOST_OPAQUE,
    ),
    "Ports of the app that are carried as bytes: each is a port opaque-NUMBER of protocol tcp, reached at address "
    "under the same number.",
)
CALLERS: Final = Key(
    "callers", Table(SERVICE_NAME, _IDENTITY, "names to SPIFFE IDs"), "Names for callers, used in rules."
)
EGRESS_PORT: Final = Key(
    "egress_port", _PORT, "The port on 127.0.0.1 of the app's way out, for http_proxy.", default="15001"
)

# -------------------------------------------------------------------------------------------------- upstreams

ADDRESSES: Final = Key(
    "addresses",
    Many(Text(addresses.host_and_port, pattern(addresses.HOST_AND_PORT)), "host and port", least=1, most=256),
    "Where its sidecars are reached, such as 10.0.0.7:8443; all alike. Names are asked of DNS again and again.",
    required=True,
)
UPSTREAM_IDENTITY: Final = Key(
    "identity", _IDENTITY, "Its SPIFFE ID: whoever else answers there is refused.", required=True
)
UPSTREAM_PROTOCOL: Final = kept(service_keys.PROTOCOL)
UPSTREAM_PORT: Final = Key("port", NAME, "What that port of its is called; its protocol, when left out.")
OF_CALLERS: Final = tuple(
    kept(each)
    for each in (
        traffic_keys.TIMEOUT,
        traffic_keys.RETRY,
        traffic_keys.ROUTES,
        bounds_keys.CIRCUIT,
        bounds_keys.OUTLIER,
    )
)
"""What a caller's proxy does; in a mesh the called service says it."""

UPSTREAM: Final = Record(
    "an upstream",
    (ADDRESSES, UPSTREAM_IDENTITY, UPSTREAM_PROTOCOL, UPSTREAM_PORT, _LOCAL, *OF_CALLERS),
)
UPSTREAM_LISTEN: Final = _LOCAL
UPSTREAMS: Final = Key(
    "upstreams", Table(SERVICE_NAME, UPSTREAM, "names to upstreams"), "The services that the app calls."
)

# ------------------------------------------------------------------------------------------------ hosts outside

_OWN_RULE: Final = Record(
    "a rule of a host outside",
    tuple(replace(each, required=each is rule_keys.RULE_ID) for each in rule_keys.OUTSIDE_RULE.keys),
)
ALLOW: Final = Key(
    "allow",
    Kept(Many(_OWN_RULE, "rule", distinct=False)),
    "What the app may do there; rules need no from.  What no rule allows is denied.",
    required=True,
)
_ELSEWHERE: Final = (outside_keys.EXTERNAL, outside_keys.OUTSIDE_ALLOW)
OUTSIDE: Final = Record(
    "a host outside",
    (
        ALLOW,
        *(kept(each) for each in outside_keys.EXTERNAL_FILE.keys if each not in _ELSEWHERE),
        _LOCAL,
    ),
)
EGRESS: Final = Key(
    "egress",
    Table(SERVICE_NAME, OUTSIDE, "names to hosts outside"),
    "Hosts outside that the app calls, verified by public certificates.",
)

# ------------------------------------------------------------------------------------------------- the whole file

ISSUERS: Final = kept(language.ISSUERS)
OF_THE_MESH: Final = (kept(language.DEFAULTS), kept(language.ROLES), ISSUERS)
OF_THE_SERVICE: Final = tuple(
    map(
        kept,
        (
            *(service_keys.OWNER, service_keys.LABELS, service_keys.ALLOW, service_keys.DENY),
            *(service_keys.DENY_DETAIL, bounds_keys.LIMITS, bounds_keys.MTLS),
        ),
    )
)
LONE_FILE: Final = Record(
    "a lone sidecar",
    (
        *(service_keys.SERVICE, IDENTITY, MESH, ENVIRONMENT, ADDRESS, PORTS, OPAQUE_PORTS, CALLERS),
        *OF_THE_SERVICE,
        *(UPSTREAMS, EGRESS, EGRESS_PORT),
        *OF_THE_MESH,
    ),
)


def schema() -> Schema:
    """The JSON Schema of such a file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Vestibule lone sidecar file",
        **LONE_FILE.schema(),
    }


def place_of(said: HostPort | int, address: str) -> HostPort:
    """Where something listens."""
    return HostPort(host=address, port=said) if isinstance(said, int) else said


def ports_of(said: range | int) -> range:
    """The numbers of opaque ports."""
    return range(said, said + 1) if isinstance(said, int) else said
