"""The keys of the intent language, in one place: what is read, what editors are told, what comes later."""

from __future__ import annotations

from typing import Final

from vestibule.intent import bounds_keys, template, traffic_keys, words
from vestibule.intent.model import DEFAULT_TEMPLATE, Decide, Rollout
from vestibule.intent.nodes import Position
from vestibule.intent.outside_keys import EXTERNAL_FILE, GATEWAY_FILE
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import As, Either
from vestibule.intent.secret_keys import SECRETS_FILE
from vestibule.intent.service_keys import SERVICE_FILE
from vestibule.intent.shapes import Choice, Fields, Key, Many, Record, Schema, Table, Text, Whole
from vestibule.intent.terms import (
    AUDIENCE_TEXT,
    CALLER,
    DURATION,
    INSTANT,
    ISSUER,
    KEY_SET,
    MEMBER,
    NAME,
    PERCENTAGE,
    SERVICE_NAME,
    pattern,
)
from vestibule.intent.terms import VERSION as VERSION_TEXT
from vestibule.intent.token_keys import TOKENS_FILE
from vestibule.intent.words import Membership
from vestibule.records import Boundary

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
WHO: Final = Key("who", CALLER, "The member: as it stands in a rule.", required=True)
UNTIL: Final = Key("until", INSTANT, "When the membership ends, such as 2026-12-31T18:00:00Z.")


def _member(fields: Fields, at: Position, findings: Findings) -> Membership | None:
    who = fields.get(WHO)
    return Membership(who.value, fields.value(UNTIL, None)) if who else None


ROLES: Final = Key(
    "roles",
    Table(
        NAME,
        Many(Either(MEMBER, As(Record("a member of a role", (WHO, UNTIL)), _member)), "member", least=1),
        "role names to members",
    ),
    "Names for sets of callers, used in rules as role:NAME; roles may hold roles.",
)
ISS: Final = Key(
    "issuer",
    ISSUER,
    "What its tokens have as `iss`; may be left out with `keys: spiffe`, and is with `keys: tokens`.",
)
KEYS: Final = Key(
    "keys",
    KEY_SET,
    "Its public keys: a JWK set in a file of the intent, keys/NAME.json, or at an address; or tokens, for those of the "
    "mesh's own token service; or spiffe, for those of its JWT-SVIDs.",
    required=True,
)
LONGEST: Final = Key(
    "longest",
    DURATION,
    "The longest that its tokens may hold; a token that says longer, or nothing, is refused.",
)
TRADED: Final = Key(
    "audiences",
    Many(AUDIENCE_TEXT, "audience", least=1, most=20),
    "Whom its tokens may be for, besides our own token service, to be traded for ours: the client ID of a login, say.",
)
ISSUERS: Final = Key(
    "issuers",
    Table(NAME, Record("an issuer", (ISS, KEYS, LONGEST, TRADED)), "names to issuers"),
    "Whose tokens count, by the names that rules call them.",
)
DECIDE: Final = Key(
    "decide",
    Choice.of([(each.value, each) for each in Decide]),
    "Who decides about calls: the called service's proxy as far as it can (local), or a decision service (central).",
    default=Decide.LOCAL.value,
)
FIRST: Final = Key(
    "first", PERCENTAGE, "How many of each service's proxies get a change first.", default="100%"
)
WATCH: Final = Key(
    "watch",
    DURATION,
    "How long they are watched before the rest follows, and the rest after that.",
    default="10s",
)
ERRORS: Final = Key(
    "errors", PERCENTAGE, "How many more of a hundred requests may fail than before.", default="5%"
)


def _rollout(fields: Fields, at: Position, findings: Findings) -> Rollout:
    plain = Rollout()
    return Rollout(
        first=fields.value(FIRST, plain.first),
        watch=fields.value(WATCH, plain.watch),
        errors=float(fields.value(ERRORS, plain.errors)),
    )


ROLLOUT: Final = Key(
    "rollout",
    As(Record("a rollout", (FIRST, WATCH, ERRORS)), _rollout),
    "How a change reaches the proxies, and when it is taken back.",
)
MESH_FILE: Final = Record(
    "mesh.yaml", (MESH_NAME, TRUST_DOMAIN, ENVIRONMENT, IDENTITY, DEFAULTS, ROLES, ISSUERS, DECIDE, ROLLOUT)
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
OTHER_RUN: Final = Key("run", RUN.shape, "Its command, where it is another one.")
OTHER_VERSIONS: Final = Key(
    "versions",
    Table(
        VERSION_TEXT, Record("another version", (OTHER_RUN, INSTANCES, ENV)), "versions to what is different"
    ),
    "Further versions that run beside it, for canaries: what they leave out is as above.",
)
APP_RECORD: Final = Record("an app", (RUN, VERSION, INSTANCES, ENV, OTHER_VERSIONS))
APPS: Final = Key(
    "apps", Table(SERVICE_NAME, APP_RECORD, "service names to apps"), "What to run.", required=True
)
UP_GATEWAYS: Final = Key(
    "gateways", Many(SERVICE_NAME, "gateway", least=1), "Which gateways to run; they need no app."
)
UP_BOUNDARY: Final = Key(
    "boundary",
    Choice.of([(each.value, each) for each in (Boundary.TRUST, Boundary.UNIX, Boundary.GUARD)]),
    "How apps and their sidecars are kept apart from other processes of this machine; `guard` needs root.",
    default="trust",
)
UP_FILE: Final = Record("up.yaml", (APPS, UP_BOUNDARY, UP_GATEWAYS))

FILES: Final = {
    "mesh": MESH_FILE,
    "service": SERVICE_FILE,
    "external": EXTERNAL_FILE,
    "gateway": GATEWAY_FILE,
    "secrets": SECRETS_FILE,
    "tokens": TOKENS_FILE,
    "up": UP_FILE,
}


def schema(kind: str) -> Schema:
    """The JSON Schema of one kind of file: as named in ``FILES``."""
    record = FILES[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Vestibule {kind} file",
        **record.schema(),
    }
