"""The keys of ``services/NAME.yaml`` itself, and of its rules."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, traffic_keys
from vestibule.intent.model import DenyDetail, Protocol
from vestibule.intent.shapes import Choice, Key, Many, Record, Table, Whole
from vestibule.intent.terms import CALLER, LINE, METHOD, NAME, PATH, SERVICE_NAME

APP_PORT: Final = Key(
    "app", Whole(1, 65535), "The port on 127.0.0.1 where the app listens; chosen when it is left out."
)
PROTOCOL: Final = Key(
    "protocol",
    Choice.of([(each.value, each) for each in Protocol]),
    "What is spoken there; mcp is HTTP whose answers may be streams of events.",
    required=True,
)
PORT_RECORD: Final = Record("a port", (APP_PORT, PROTOCOL))

RULE_ID: Final = Key("id", NAME, "The rule's name in logs, metrics and explanations.", required=True)
FROM: Final = Key(
    "from",
    Many(CALLER, "caller", least=1),
    "Who may call: services, role:NAME, spiffe://… or spiffe://…/**.",
    required=True,
)
RULE_PORT: Final = Key("port", NAME, "Which port; may be left out where there is only one.")
METHODS: Final = Key("methods", Many(METHOD, "method", least=1), "Which HTTP methods; any, when left out.")
PATHS: Final = Key(
    "paths",
    Many(PATH, "path", least=1),
    "Which paths; any, when left out.  {name} is one segment, /a/** is /a and everything below it.",
)
MODE: Final = Key(
    "mode", Choice.of([("enforce", "enforce")], later=["shadow"]), "What the rule does.", default="enforce"
)
RULE_RECORD: Final = Record(
    "a rule",
    (RULE_ID, FROM, RULE_PORT, METHODS, PATHS, MODE),
    later=frozenset({"when", "token", "tools", "reason", "expires"}),
)

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
    Many(RULE_RECORD, "rule", distinct=False),
    "Who may call it, and how.  What no rule allows is denied.",
)
DENY_DETAIL: Final = Key(
    "deny_detail",
    Choice.of([(detail.value, detail) for detail in DenyDetail]),
    "What a denied caller is told: the code and the request id, or also the rules it missed.",
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
        DENY_DETAIL,
        *traffic_keys.SERVICE_KEYS,
        *bounds_keys.SERVICE_KEYS,
    ),
    later=frozenset({"deny"}),
)
