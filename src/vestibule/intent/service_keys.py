"""The keys of ``services/NAME.yaml`` itself."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, rule_keys, traffic_keys
from vestibule.intent.model import Authorization, DenyDetail, Protocol
from vestibule.intent.shapes import Choice, Key, Many, Record, Table, Whole
from vestibule.intent.terms import LINE, NAME, SERVICE_NAME

APP_PORT: Final = Key(
    "app", Whole(1, 65535), "The port on 127.0.0.1 where the app listens; chosen when it is left out."
)
PROTOCOL: Final = Key(
    "protocol",
    Choice.of([(each.value, each) for each in Protocol]),
    "What is spoken there; mcp is HTTP whose answers may be streams of events.",
    required=True,
)
AUTHORIZATION: Final = Key(
    "authorization",
    Choice.of([(each.value, each) for each in Authorization]),
    "What becomes of the Authorization header once rules have seen it: the app gets it, or does not; or calls with one "
    "are refused, where no rule asks for a token.",
    default=Authorization.FORWARD.value,
)
PORT_RECORD: Final = Record("a port", (APP_PORT, PROTOCOL, AUTHORIZATION))

SERVICE: Final = Key("service", SERVICE_NAME, "The service's name, which is also its file's.", required=True)
OWNER: Final = Key("owner", LINE, "Who answers for the service.")
LABELS: Final = Key(
    "labels", Table(NAME, LINE, "label names to values"), "Attributes of the service, kept with it."
)
PORTS: Final = Key(
    "ports", Table(NAME, PORT_RECORD, "port names to ports"), "Where the service can be called."
)
ALLOW: Final = Key(
    "allow",
    Many(rule_keys.RULE_RECORD, "rule", distinct=False),
    "Who may call it, and how.  What no rule allows is denied.",
)
DENY: Final = Key(
    "deny",
    Many(rule_keys.RULE_RECORD, "rule", distinct=False),
    "Who may not, whatever is allowed: what a rule denies is denied.",
)
DENY_DETAIL: Final = Key(
    "deny_detail",
    Choice.of([(detail.value, detail) for detail in DenyDetail]),
    "What a denied caller is told: the code and the request id, or also the rule, its place and the commit.",
    default=DenyDetail.CODE.value,
)
SERVICE_FILE: Final = Record(
    "a service",
    (
        SERVICE,
        OWNER,
        LABELS,
        PORTS,
        ALLOW,
        DENY,
        DENY_DETAIL,
        *traffic_keys.SERVICE_KEYS,
        *bounds_keys.SERVICE_KEYS,
    ),
)
