"""The keys that bound calls and say where they go: health, limits, outlier detection, locality, plain text."""

from __future__ import annotations

from typing import Final

from vestibule.intent import codes, words
from vestibule.intent.nodes import Position
from vestibule.intent.presence import at_least_one, exactly_one
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import As, Either, PerCent, Switch
from vestibule.intent.shapes import Choice, Fields, Key, Many, Record, Text, Whole
from vestibule.intent.terms import DURATION, INSTANT, LINE, METHOD, NAME, PATH, PERCENTAGE, REGION, pattern
from vestibule.intent.traffic import (
    CheckKind,
    CircuitLimits,
    HealthCheck,
    LimitPer,
    Locality,
    Nearness,
    OutlierDetection,
    RetryBudget,
)

# ----------------------------------------------------------------------------------------- in flight

_IN_FLIGHT: Final = Whole(1, 1_000_000)
CONNECTIONS: Final = Key("connections", _IN_FLIGHT, "How many connections at most.")
PENDING: Final = Key("pending", _IN_FLIGHT, "How many calls may wait for a connection at most.")
REQUESTS: Final = Key("requests", _IN_FLIGHT, "How many requests at once at most.")
BUDGET_PER_CENT: Final = Key(
    "percent", PerCent(least=0), "How many of a hundred requests in flight may be retries.", default="20"
)
LEAST: Final = Key(
    "least", Whole(0, 1000), "How many retries are allowed however few requests there are.", default="3"
)


def _budget(fields: Fields, at: Position, findings: Findings) -> RetryBudget:
    plain = RetryBudget()
    return RetryBudget(
        percent=fields.value(BUDGET_PER_CENT, plain.percent), least=fields.value(LEAST, plain.least)
    )


BUDGET: Final = Key(
    "retry_budget",
    As(Record("a retry budget", (BUDGET_PER_CENT, LEAST)), _budget),
    "How much of what is in flight may be retries.",
)
CIRCUIT_RECORD: Final = Record("circuit limits", (CONNECTIONS, PENDING, REQUESTS, BUDGET))


def _circuit(fields: Fields, at: Position, findings: Findings) -> CircuitLimits | None:
    if not at_least_one(fields, CIRCUIT_RECORD.keys, at, findings, "circuit_limits"):
        return None
    return CircuitLimits(
        connections=fields.value(CONNECTIONS, None),
        pending=fields.value(PENDING, None),
        requests=fields.value(REQUESTS, None),
        budget=fields.value(BUDGET, None),
    )


CIRCUIT: Final = Key(
    "circuit_limits",
    As(CIRCUIT_RECORD, _circuit),
    "What one caller may have in flight; beyond it calls fail at once.",
)

CONSECUTIVE: Final = Key("consecutive", Whole(1, 1000), "After how many failures in a row.", default="5")
INTERVAL: Final = Key("interval", DURATION, "How often instances are looked at.", default="10s")
EJECT_FOR: Final = Key(
    "eject_for",
    DURATION,
    "For how long an instance is left out the first time, and longer each time.",
    default="30s",
)
MOST: Final = Key("most", PERCENTAGE, "How many of the instances may be left out at once.", default="50%")


def _outlier(fields: Fields, at: Position, findings: Findings) -> OutlierDetection:
    plain = OutlierDetection()
    return OutlierDetection(
        consecutive=fields.value(CONSECUTIVE, plain.consecutive),
        interval=fields.value(INTERVAL, plain.interval),
        eject_for=fields.value(EJECT_FOR, plain.eject_for),
        most_percent=fields.value(MOST, plain.most_percent),
    )


OUTLIER: Final = Key(
    "outlier_detection",
    As(Record("outlier detection", (CONSECUTIVE, INTERVAL, EJECT_FOR, MOST)), _outlier),
    "When callers leave an instance out for a while, by what they see of its answers.",
)

# --------------------------------------------------------------------------------------------- limits

RATE: Final = Key(
    "requests",
    Text(words.rate, pattern(words.RATE), "a rate, such as 100/s"),
    "How many requests in a second, minute or hour, such as 100/s.",
    required=True,
)
PER: Final = Key(
    "per",
    Choice.of([(each.value, each) for each in LimitPer]),
    "Whether all callers share it, or each has its own.",
    default=LimitPer.ALL.value,
)
BURST: Final = Key("burst", Whole(1, 1_000_000), "How many at once; as many as requests, when left out.")
LIMIT_PORT: Final = Key("port", NAME, "Which port; every HTTP port, when left out.")
LIMIT_PATH: Final = Key("path", PATH, "Which paths; all, when left out.")
LIMIT_RECORD: Final = Record("a limit", (RATE, PER, BURST, LIMIT_PORT, LIMIT_PATH))
LIMITS: Final = Key(
    "limits",
    Many(LIMIT_RECORD, "limit", distinct=False, most=32),
    "How many requests each instance takes; beyond it callers get 429.",
)

# ------------------------------------------------------------------------------------------- locality

PREFER: Final = Key(
    "prefer",
    Choice.of([(each.value, each) for each in Nearness]),
    "Where callers look first: in their own zone, in their own region, or anywhere.",
    required=True,
)
FAILOVER: Final = Key(
    "failover",
    Many(REGION, "region", least=1, most=32),
    "Regions in the order in which they are tried after the caller's own.",
)


def _locality(fields: Fields, at: Position, findings: Findings) -> Locality | None:
    prefer, failover = fields.get(PREFER), fields.get(FAILOVER)
    if prefer is None:
        return None
    if prefer.value is Nearness.ANY and failover:
        findings.add(codes.NO_EFFECT, "failover has no order to keep where any instance will do", failover.at)
    regions = tuple(each.value for each in failover.value) if failover else ()
    return Locality(prefer=prefer.value, failover=regions)


LOCALITY: Final = Key(
    "locality", As(Record("a locality", (PREFER, FAILOVER)), _locality), "Which instances callers prefer."
)

# --------------------------------------------------------------------------------------------- health

HTTP: Final = Key(
    "http", Text(words.check_path, pattern("/.*")), "A path that answers 200 to 399 while the app is well."
)
GRPC: Final = Key(
    "grpc",
    Text(words.grpc_service, pattern(words.GRPC_SERVICE)),
    "A service of grpc.health.v1; empty for the whole server.",
)
TCP: Final = Key("tcp", Switch(), "Only that the app accepts connections.")
CHECK_PORT: Final = Key("port", NAME, "Which port; the first that fits, when left out.")
EVERY: Final = Key("every", DURATION, "The time between two checks.", default="5s")
WAIT: Final = Key("timeout", DURATION, "The longest that a check may take.", default="1s")
UNHEALTHY: Final = Key(
    "unhealthy", Whole(1, 100), "After how many failures in a row it is left out.", default="3"
)
HEALTHY: Final = Key(
    "healthy", Whole(1, 100), "After how many successes in a row it comes back.", default="1"
)


def _health(fields: Fields, at: Position, findings: Findings) -> HealthCheck | None:
    """Whether the port fits is looked at where the ports are known."""
    if not exactly_one(fields, (HTTP, GRPC, TCP), at, findings, "health"):
        return None
    tcp = fields.get(TCP)
    if tcp and not tcp.value:
        findings.add(codes.MALFORMED_VALUE, "tcp is either true or left out", tcp.at, advice="Remove health.")
        return None
    kind = CheckKind.HTTP if fields.get(HTTP) else CheckKind.GRPC if fields.get(GRPC) else CheckKind.TCP
    plain = HealthCheck(kind=kind)
    every, wait = fields.value(EVERY, plain.every), fields.value(WAIT, plain.timeout)
    if wait > every:
        message = "a check may take longer than the time until the next"
        findings.add(codes.CHECK_TOO_SLOW, message, at)
    return HealthCheck(
        kind=kind,
        path=fields.value(HTTP, plain.path),
        grpc_service=fields.value(GRPC, plain.grpc_service),
        port=fields.value(CHECK_PORT, None),
        every=every,
        timeout=wait,
        unhealthy=fields.value(UNHEALTHY, plain.unhealthy),
        healthy=fields.value(HEALTHY, plain.healthy),
    )


HEALTH_RECORD: Final = Record("health", (HTTP, GRPC, TCP, CHECK_PORT, EVERY, WAIT, UNHEALTHY, HEALTHY))
HEALTH: Final = Key("health", As(HEALTH_RECORD, _health), "How its agent learns whether an instance is well.")

# ------------------------------------------------------------------------------------------ plain text

PERMISSIVE_UNTIL: Final = Key(
    "permissive_until", INSTANT, "Until when plain text is accepted too.", required=True
)
REASON: Final = Key("reason", LINE, "Why, for whoever reads it later.", required=True)


PLAIN_ID: Final = Key("id", NAME, "The rule's name in logs, metrics and explanations.", required=True)
PLAIN_PORT: Final = Key("port", NAME, "Which port; may be left out where there is only one.")
PLAIN_METHODS: Final = Key(
    "methods", Many(METHOD, "method", least=1), "Which HTTP methods; any, when left out."
)
PLAIN_PATHS: Final = Key("paths", Many(PATH, "path", least=1), "Which paths; any, when left out.")
PLAIN_ALLOW: Final = Key(
    "allow",
    Many(
        Record("a rule of plain text", (PLAIN_ID, PLAIN_PORT, PLAIN_METHODS, PLAIN_PATHS)),
        "rule",
        least=1,
        distinct=False,
    ),
    "What anybody may do in plain text, since nobody knows who it is.  Other rules need an identity.",
    required=True,
)


MTLS: Final = Key(
    "mtls",
    Either(
        Text(words.strict, {"enum": ["strict"]}, "strict, or permissive_until with a reason"),
        Record("mtls", (PERMISSIVE_UNTIL, REASON, PLAIN_ALLOW)),
    ),
    "Whether callers must use mutual TLS, or plain text is accepted for a while.",
    default="strict",
)

# What a service may say beside routes; DEFAULT_KEYS what the mesh may say for all.
DEFAULT_KEYS: Final = (CIRCUIT, OUTLIER)
SERVICE_KEYS: Final = (HEALTH, CIRCUIT, OUTLIER, LIMITS, LOCALITY, MTLS)
