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
    meaning="An instance cannot be laid out: its ID is malformed, it has a port that its service has not, a port "
    "without an app behind it, two listeners at one address, or an address that no proxy can use.",
    advice="Let `vestibule sidecar` lay out the instance from the service's description.",
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
