"""Error codes of workload attestation."""

from vestibule.errors import Fault, Kind, define

NOT_ATTESTED = define(
    "VST2050",
    "workload-not-attested",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="No attestor could find out anything about the calling process.",
    advice="Look at the agent's log for each attestor's reason; the client may try again.",
)
NOT_RUNNING = define(
    "VST2051",
    "vouched-process-not-running",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A process was vouched for that does not run, or whose pid belongs to another process by now.",
    advice="Vouch for a process after it was started, with its pid and the start time from /proc/PID/stat.",
)
