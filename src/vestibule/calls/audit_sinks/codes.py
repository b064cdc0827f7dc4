"""Error codes of the places that audit records are carried to."""

from vestibule.errors import Fault, Kind, define

SINK_UNKNOWN = define(
    "VST8106",
    "audit-sink-unknown",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A place that audit records should be carried to is not of a form that is known.",
    advice="Write syslog:/dev/log, syslog+tcp://HOST:PORT, https://HOST/PATH or otlp+https://HOST[:PORT]; http "
    "instead of https on loopback only.",
)
SINK_REFUSED = define(
    "VST8107",
    "audit-sink-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A place that audit records are carried to does not take them; they wait in the log.",
    advice="Look at what it answers; it is tried again by itself, and gets all that it has missed.",
)
