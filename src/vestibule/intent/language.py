"""The keys of the intent language, in one place: what is read, what editors are told, what comes later."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, template, traffic_keys, words
from vestibule.intent.model import DEFAULT_TEMPLATE, DenyDetail, Protocol
from vestibule.intent.shapes import Choice, Key, Many, Record, Schema, Table, Text, Whole
from vestibule.intent.terms import (
    CALLER,
    DURATION,
    LINE,
    MEMBER,
    METHOD,
    NAME,
    PATH,
    SERVICE_NAME,
    pattern,
)
from vestibule.intent.terms import VERSION as VERSION_TEXT

# ------------------------------------------------------------------------------------------ mesh.yaml

TIMEOUT: Final = Key("timeout", DURATION, "The longest a request may take, such as 5s.", default="15s")
MTLS: Final = Key(
    "mtls",
    Text(words.strict, {"enum": ["strict"]}),
    "Only mutual TLS is accepted between services; a service may say otherwise for a while.",
    default="strict",
)
DEFAULTS_RECORD: Final = Record("defaults", (TIMEOUT, traffic_keys.RETRY, *bounds_keys.DEFAULT_KEYS, MTLS))

MESH_NAME: Final = Key("mesh", NAME, "The name of the mesh.", required=True)
TRUST_DOMAIN: Final = Key(
    "trust_domain",
    Text(words.trust_domain, pattern("[a-z0-9._-]{1,255}")),
    "The SPIFFE trust domain of every identity, such as example.org.",
    required=True,
)
ENVIRONMENT: Final = Key("environment", NAME, "Which environment this is, such as prod.", required=True)
IDENTITY: Final = Key(
    "identity",
    Text(template.parse, pattern(r"/.*\{service\}.*")),
    "The path of a service's SPIFFE ID; holds {service}, may hold {environment} and {mesh}.",
    default=DEFAULT_TEMPLATE,
)
DEFAULTS: Final = Key("defaults", DEFAULTS_RECORD, "What holds for every service.")
ROLES: Final = Key(
    "roles",
    Table(NAME, Many(MEMBER, "service or SPIFFE ID", least=1), "role names to members"),
    "Names for sets of callers, used in rules as role:NAME.",
)
MESH_FILE: Final = Record("mesh.yaml", (MESH_NAME, TRUST_DOMAIN, ENVIRONMENT, IDENTITY, DEFAULTS, ROLES))

# ---------------------------------------------------------------------------------- services/NAME.yaml

APP_PORT: Final = Key(
    "app", Whole(1, 65535), "The port on 127.0.0.1 where the app listens; chosen when it is left out."
)
PROTOCOL: Final = Key(
    "protocol",
    Choice.of([(each.value, each) for each in Protocol if each is not Protocol.MCP], later=["mcp"]),
    "What is spoken there.",
    required=True,
)
PORT_RECORD: Final = Record("a port", (APP_PORT, PROTOCOL), later=frozenset({"raw_paths", "boundary"}))

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

# -------------------------------------------------------------------------------------------- up.yaml

RUN: Final = Key(
    "run",
    Many(Text(words.anything), "word", least=1, distinct=False),
    "The command, word by word, run in the directory of this file.",
    required=True,
)
VERSION: Final = Key(
    "version",
    VERSION_TEXT,
    "The version that its instances register with.",
    default="v1",
)
INSTANCES: Final = Key("instances", Whole(1, 64), "How many of it to run.", default="1")
ENV: Final = Key(
    "env",
    Table(Text(words.variable, pattern(words.VARIABLE)), Text(words.anything), "variable names to values"),
    "Further environment variables; no place for secrets.",
)
APP_RECORD: Final = Record("an app", (RUN, VERSION, INSTANCES, ENV))
APPS: Final = Key(
    "apps", Table(SERVICE_NAME, APP_RECORD, "service names to apps"), "What to run.", required=True
)
UP_FILE: Final = Record("up.yaml", (APPS,))

FILES: Final = {"mesh": MESH_FILE, "service": SERVICE_FILE, "up": UP_FILE}


def schema(kind: str) -> Schema:
    """The JSON Schema of one kind of file: ``mesh``, ``service`` or ``up``."""
    record = FILES[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Vestibule {kind} file",
        **record.schema(),
    }
