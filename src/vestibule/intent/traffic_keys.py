"""The keys that say how calls travel: routes, splits, timeouts, retries."""

from __future__ import annotations

from typing import Final

from vestibule.intent import codes, words
from vestibule.intent.nodes import Position
from vestibule.intent.presence import at_least_one, exactly_one
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import As, OneOf, PerCent, Switch, WordOrNumber
from vestibule.intent.shapes import At, Choice, Fields, Key, Many, Record, Table, Text, Whole
from vestibule.intent.terms import (
    DURATION,
    HEADER,
    HOST,
    INSTANT,
    METHOD,
    NAME,
    PARAMETER,
    PATH,
    PLAIN_PATH,
    VERSION,
    pattern,
)
from vestibule.intent.traffic import Fault, Hedge, Redirect, Retry, RetryOn, Rewrite, ValueMatch

# -------------------------------------------------------------------------------------------- retries

ATTEMPTS: Final = Key(
    "attempts", Whole(1, 10), "How often a call is tried in all, the first try as well.", default="3"
)
ON: Final = Key(
    "on",
    Many(
        WordOrNumber(Choice.of([(each.value, each) for each in RetryOn]), Whole(400, 599)),
        "outcome",
        least=1,
    ),
    "Which outcomes of a try allow another one: words, and statuses of answers.",
)
PER_TRY: Final = Key("per_try", DURATION, "The longest that one try may take.")
BACKOFF: Final = Key(
    "backoff",
    DURATION,
    "The pause before the second try; doubled, with jitter, before each further.",
    default="25ms",
)
RETRY_RECORD: Final = Record("a retry", (ATTEMPTS, ON, PER_TRY, BACKOFF))


def _retry(fields: Fields, at: Position, findings: Findings) -> Retry:
    plain, on = Retry(), fields.get(ON)
    attempts = fields.value(ATTEMPTS, plain.attempts)
    for key in (ON, PER_TRY, BACKOFF):
        if attempts == 1 and (place := fields.place(key)):
            findings.add(codes.NO_EFFECT, f"{key.name} means nothing where a call is tried once only", place)
    listed = [each.value for each in on.value] if on else []
    return Retry(
        attempts=attempts,
        on=tuple(each for each in listed if isinstance(each, RetryOn)) if on else plain.on,
        statuses=tuple(each for each in listed if isinstance(each, int)),
        per_try=fields.value(PER_TRY, None),
        backoff=fields.value(BACKOFF, plain.backoff),
    )


RETRY: Final = Key("retry", As(RETRY_RECORD, _retry), "When and how often a failed call is tried again.")

# -------------------------------------------------------------------------------------------- matches

EQUALS: Final = Key("equals", Text(words.value), "The value must be this one.")
PREFIX: Final = Key("prefix", Text(words.value), "The value must begin so.")
PRESENT: Final = Key("present", Switch(), "It must be there, or with false must not be.")
VALUE_RECORD: Final = Record("a comparison", (EQUALS, PREFIX, PRESENT))


def _value_match(fields: Fields, at: Position, findings: Findings) -> ValueMatch | None:
    """Without its name, which the table around it has."""
    if not exactly_one(fields, (EQUALS, PREFIX, PRESENT), at, findings, "a comparison"):
        return None
    present = fields.value(PRESENT, True)
    return ValueMatch(
        name="", equals=fields.value(EQUALS, None), prefix=fields.value(PREFIX, None), absent=not present
    )


ValueTable = dict[str, tuple[Position, At[ValueMatch] | None]]
VALUE: Final = As(VALUE_RECORD, _value_match)
MATCH_PATH: Final = Key("path", PATH, "Which paths; all, when left out.")
MATCH_METHODS: Final = Key("methods", Many(METHOD, "method", least=1), "Which methods; all, when left out.")
MATCH_HEADERS: Final = Key(
    "headers", Table(HEADER, VALUE, "header names to comparisons"), "Headers that must all be as said."
)
MATCH_QUERY: Final = Key(
    "query",
    Table(PARAMETER, VALUE, "parameter names to comparisons"),
    "Query parameters that must all be as said.",
)
MATCH_RECORD: Final = Record("a match", (MATCH_PATH, MATCH_METHODS, MATCH_HEADERS, MATCH_QUERY))

# --------------------------------------------------------------------------------- rewrites, redirects

NEW_PATH: Final = Key(
    "path",
    PLAIN_PATH,
    "What takes the place of the match's path, or of what stands before its /** or {segment}.",
)
NEW_HOST: Final = Key("host", HOST, "The host that is called instead.")
HTTPS: Final = Key("https", Switch(), "Whether the new address is https://.", default="false")
REDIRECT_STATUS: Final = Key(
    "status", OneOf((301, 302, 303, 307, 308)), "The status of the answer.", default="302"
)
REWRITE_RECORD: Final = Record("a rewrite", (NEW_PATH, NEW_HOST))
REDIRECT_RECORD: Final = Record("a redirect", (NEW_PATH, NEW_HOST, HTTPS, REDIRECT_STATUS))


def _rewrite(fields: Fields, at: Position, findings: Findings) -> Rewrite | None:
    if not at_least_one(fields, (NEW_PATH, NEW_HOST), at, findings, "a rewrite"):
        return None
    return Rewrite(path=fields.value(NEW_PATH, None), host=fields.value(NEW_HOST, None))


def _redirect(fields: Fields, at: Position, findings: Findings) -> Redirect | None:
    if not at_least_one(fields, (NEW_PATH, NEW_HOST, HTTPS), at, findings, "a redirect"):
        return None
    return Redirect(
        path=fields.value(NEW_PATH, None),
        host=fields.value(NEW_HOST, None),
        https=fields.value(HTTPS, False),
        status=fields.value(REDIRECT_STATUS, 302),
    )


# ------------------------------------------------------------------------------ hedges, mirrors, faults

AFTER: Final = Key("after", DURATION, "How long to wait for an answer before another try.", required=True)
TRIES: Final = Key("attempts", Whole(2, 10), "How many tries in all, the first as well.", default="2")
HEDGE_RECORD: Final = Record("a hedge", (AFTER, TRIES))

TO: Final = Key(
    "to",
    Text(words.mirror_target, pattern(words.MIRROR_TARGET)),
    "Where the copies go: a version of this service, service:NAME or service:NAME/PORT.",
    required=True,
)
PER_CENT: Final = Key("percent", PerCent(), "How many of a hundred requests.", default="100")
MIRROR_RECORD: Final = Record("a mirror", (TO, PER_CENT))

UNTIL: Final = Key("until", INSTANT, "When it ends by itself.", required=True)
FOR: Final = Key("for", DURATION, "How long requests are held back.", required=True)
DELAY: Final = Key("delay", Record("a delay", (FOR, PER_CENT)), "Requests that are held back.")
ABORT_STATUS: Final = Key("status", Whole(400, 599), "The answer that they get.", required=True)
ABORT: Final = Key(
    "abort", Record("an abort", (ABORT_STATUS, PER_CENT)), "Requests that are answered at once."
)
FAULT_RECORD: Final = Record("a fault", (UNTIL, DELAY, ABORT))


def _hedge(fields: Fields, at: Position, findings: Findings) -> Hedge | None:
    after = fields.get(AFTER)
    return Hedge(after=after.value, attempts=fields.value(TRIES, 2)) if after else None


def _fault(fields: Fields, at: Position, findings: Findings) -> Fault | None:
    until, delay, abort = fields.get(UNTIL), fields.get(DELAY), fields.get(ABORT)
    if not until or not at_least_one(fields, (DELAY, ABORT), at, findings, "a fault"):
        return None
    return Fault(
        until=until.value,
        delay=delay.value.value(FOR, None) if delay else None,
        delay_percent=delay.value.value(PER_CENT, 100.0) if delay else 100.0,
        abort=abort.value.value(ABORT_STATUS, None) if abort else None,
        abort_percent=abort.value.value(PER_CENT, 100.0) if abort else 100.0,
    )


# --------------------------------------------------------------------------------------------- routes

ROUTE_ID: Final = Key("id", NAME, "The route's name in logs and metrics.", required=True)
ROUTE_PORT: Final = Key("port", NAME, "Which port; may be left out where there is only one.")
MATCH: Final = Key("match", MATCH_RECORD, "Which requests it is for; all, when left out.")
SPLIT: Final = Key(
    "split",
    Table(VERSION, Whole(0, 100), "versions to weights"),
    "How many of a hundred requests each version gets.",
)
REWRITE: Final = Key("rewrite", As(REWRITE_RECORD, _rewrite), "What the service sees instead.")
REDIRECT: Final = Key("redirect", As(REDIRECT_RECORD, _redirect), "Where callers are sent instead.")
TIMEOUT: Final = Key("timeout", DURATION, "The longest that a request may take, all tries together.")
IDLE_TIMEOUT: Final = Key("idle_timeout", DURATION, "The longest that a request may go without any data.")
HEDGE: Final = Key("hedge", As(HEDGE_RECORD, _hedge), "A further try beside one that is slow.")
MIRROR: Final = Key(
    "mirror", Many(MIRROR_RECORD, "mirror", least=1, distinct=False, most=4), "Where copies of requests go."
)
FAULT: Final = Key("fault", As(FAULT_RECORD, _fault), "Trouble made on purpose, until a given time.")
# What means nothing where callers are sent elsewhere.
ACTIONS: Final = (SPLIT, REWRITE, TIMEOUT, IDLE_TIMEOUT, RETRY, HEDGE, MIRROR, FAULT)
ROUTE_RECORD: Final = Record("a route", (ROUTE_ID, ROUTE_PORT, MATCH, REDIRECT, *ACTIONS))

VERSIONS: Final = Key(
    "versions", Many(VERSION, "version", least=1), "The versions that its instances may register with."
)
ROUTES: Final = Key(
    "routes",
    Many(ROUTE_RECORD, "route", distinct=False, most=500),
    "How calls travel; the first route that matches decides.  Calls that none matches go to all versions.",
)
SERVICE_KEYS: Final = (VERSIONS, TIMEOUT, RETRY, ROUTES)
