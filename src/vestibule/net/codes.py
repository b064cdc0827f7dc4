"""Error codes of the network seam."""

from vestibule.errors import Fault, Kind, define

UNREACHABLE = define(
    "VST2300",
    "unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Nothing answers at the address, or the connection broke before an answer came.",
    advice="Check that the server or agent runs and that the address or socket path is the one it prints at start.",
)
REMOTE_REFUSED = define(
    "VST2301",
    "remote-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The other side refused the call and gave no Vestibule error code (another implementation, perhaps).",
    advice="Read the message; it is the other side's own.",
)
INTERNAL = define(
    "VST9000",
    "internal",
    Kind.INTERNAL,
    Fault.VESTIBULE,
    meaning="Something failed that should not have: a bug in Vestibule.",
    advice="Look for the request's entry in the log of the component that answered, and report it.",
)
SHUTTING_DOWN = define(
    "VST9001",
    "shutting-down",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The component is stopping and takes no more calls; clients reconnect by themselves.",
    advice="Wait for it to come back; nothing needs to be done.",
)
