"""Error codes of the mesh: what instances may register."""

from vestibule.errors import Fault, Kind, define

UNKNOWN_SERVICE = define(
    "VST3200",
    "unknown-service",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="An instance was registered for an identity that no service of the intent has, or under the name of "
    "another service.",
    advice="Write services/NAME.yaml for it, or start the sidecar with the name of a service that exists.",
)
MALFORMED_INSTANCE = define(
    "VST3201",
    "malformed-instance",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An instance cannot be laid out: its ID is malformed, it has a port or version that its service has not, a "
    "port without an app behind it, two listeners at one address, or an address that no proxy can use.",
    advice="Let `vestibule sidecar` lay out the instance from the service's description, with a `--version` that the "
    "service declares.",
)
INSTANCE_TAKEN = define(
    "VST3202",
    "instance-taken",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="The instance ID belongs to another service or to an instance of another agent.",
    advice="Choose another ID; the sidecar makes a random one unless it is told otherwise.",
)
NO_INTENT_YET = define(
    "VST3203",
    "no-intent-yet",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The server has not yet read a valid intent, so it knows no services.",
    advice="Run `vestibule validate DIR` on the server's intent directory and mend what it finds.",
)
TOO_MANY_INSTANCES = define(
    "VST3204",
    "too-many-instances",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="One agent wants to register more instances than a node can sensibly run.",
    advice="Look on the agent's node for what registers them; those that are gone are forgotten within 30 seconds.",
)
NOTHING_TO_ROLL = define(
    "VST3240",
    "nothing-to-roll",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The rollout is not in a state in which this could be done: nothing is paused or held back, or all "
    "proxies are to have that version already.",
    advice="Look at `vestibule rollout` and `vestibule rollout history`.",
)
UNKNOWN_INTENT = define(
    "VST3241",
    "unknown-intent",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The history has no such version of the intent, or none before the one in force.",
    advice="Choose one of `vestibule rollout history`; older ones come back through the source.",
)
UNREADABLE_INTENT = define(
    "VST3242",
    "unreadable-intent",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A version of the intent in the history cannot be read by this version of Vestibule.",
    advice="Choose another one of `vestibule rollout history`, or mend the files at their source.",
)
NOT_LEADING = define(
    "VST3243",
    "not-leading",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Another server of the same database changed the rollout at the same moment.",
    advice="Look at `vestibule rollout`, and try again.",
)
MALFORMED_REPORT = define(
    "VST3244",
    "malformed-report",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A report of a proxy's counters names an instance that its agent has not registered, or its numbers "
    "cannot be.",
    advice="Use a sidecar and an agent of the same version as the server.",
)
EMERGENCY_REFUSED = define(
    "VST4090",
    "break-glass-refused",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A permission of break-glass lacks a reason, a ticket or an approver, lasts longer than four hours, or "
    "speaks of what cannot be.",
    advice="Say who may call what, why, by which ticket, who agreed, and for how long: --for 1h, at most 4h.",
)
APPROVED_BY_ITSELF = define(
    "VST4091",
    "approved-by-its-opener",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="Whoever opens break-glass has named themselves as the one who agreed.",
    advice="Let somebody else agree, and name that person with --approver.",
)
EMERGENCY_UNKNOWN_NAME = define(
    "VST4092",
    "break-glass-unknown-name",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="The intent in force has no such service, port, role or caller.",
    advice="Write names as rules do: a service, role:NAME, or a SPIFFE ID; SERVICE/PORT for one port.",
)
EMERGENCY_NOT_OPEN = define(
    "VST4093",
    "break-glass-not-open",
    Kind.NOT_FOUND,
    Fault.OPERATOR,
    meaning="There is no permission of break-glass of this ID that still holds.",
    advice="`vestibule break-glass list` shows those that hold, and with --all those that have ended.",
)
TOO_MANY_EMERGENCIES = define(
    "VST4094",
    "too-many-emergencies",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="As many permissions of break-glass are open as the server keeps at once.",
    advice="Close those that are not needed any more; what is needed for long belongs into the intent, as a rule.",
)
MALFORMED_USES = define(
    "VST4095",
    "malformed-uses",
    Kind.INVALID,
    Fault.VESTIBULE,
    meaning="An agent's report of uses of break-glass cannot be read.",
    advice="Update the agent, or the server, so that both have the same version.",
)
