"""Error codes of attached sidecars."""

from vestibule.errors import Fault, Kind, define

UNKNOWN_SUPERVISOR_KEY = define(
    "VST2130",
    "unknown-supervisor-key",
    Kind.DENIED,
    Fault.CALLER,
    meaning="A sidecar showed a supervisor key that was not granted to this agent, or for another service.",
    advice="Let the process that started the agent start the sidecar too; it grants the keys again after a restart.",
)
NO_SERVICE_IDENTITY = define(
    "VST2131",
    "sidecar-without-identity",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="No registration entry under this agent gives the sidecar's process the identity of its service yet.",
    advice="Create the entry (vestibule entry create), or check its selectors and parent, and that the intent has a "
    "service of this name; the sidecar waits.",
)
NOT_ITS_PROCESS = define(
    "VST2132",
    "vouched-for-stranger",
    Kind.DENIED,
    Fault.CALLER,
    meaning="A sidecar may vouch only for processes that it started itself and that still run.",
    advice="Start the process from the sidecar: vestibule sidecar --service NAME -- COMMAND.",
)
NOT_A_PROXY = define(
    "VST2133",
    "not-a-known-proxy",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The caller is not an Envoy that an attached sidecar vouches for, so it gets no mesh configuration "
    "and its access logs are not taken.",
    advice="Start Envoy through vestibule sidecar; an Envoy of your own can still use SDS on the same socket.",
)
OUT_OF_STEP = define(
    "VST2134",
    "sidecar-out-of-step",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A sidecar's message does not fit the conversation (Hello first, once; an instance of its own service).",
    advice="Use a sidecar of the same version as the agent.",
)
