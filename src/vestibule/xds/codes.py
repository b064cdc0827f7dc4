"""Error codes of the xDS protocol and of the doors that serve it."""

from vestibule.errors import Fault, Kind, define

NODE_MISSING = define(
    "VST3100",
    "xds-node-missing",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The first request of an xDS stream did not say which node it comes from.",
    advice="Set node.id (Envoy: --service-node, or node in the bootstrap).",
)
NODE_CHANGED = define(
    "VST3101",
    "xds-node-changed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A later request of an xDS stream came with another node than the first.",
    advice="Open a stream of its own for each node.",
)
TYPE_MISSING = define(
    "VST3102",
    "xds-type-missing",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request on an aggregated xDS stream did not say which type of resource it is about.",
    advice="Set type_url in every request.",
)
TYPE_NOT_SERVED = define(
    "VST3103",
    "xds-type-not-served",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A service for one type of resource was asked for another type.",
    advice="Ask for other types over the aggregated discovery service (ADS).",
)
TOO_MUCH = define(
    "VST3104",
    "xds-request-too-large",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="A client asked for more names or types than one stream may, or sent a message that is too large.",
    advice="Check what the client subscribes to; a proxy of Vestibule stays far below these limits.",
)
CLIENT_STUCK = define(
    "VST3105",
    "xds-client-stuck",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A client did not read its stream for so long that the stream was ended; it may come back.",
    advice="Look whether the proxy is stopped or starved of CPU.",
)
PROXY_NOT_NAMED = define(
    "VST3106",
    "xds-proxy-not-named",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An agent opened an ADS stream without saying, or saying wrongly, which proxy it is for.",
    advice="Send the metadata vestibule-proxy-spiffe-id and vestibule-proxy-instance-id.",
)
PROXY_NOT_ALLOWED = define(
    "VST3107",
    "xds-proxy-not-allowed",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="An agent asked for the configuration of a proxy whose identity no entry gives to that agent, or "
    "whose instance belongs to another agent.",
    advice="Check with 'vestibule entry show' that an entry with this identity has this agent as its parent.",
)
BAD_RESPONSE = define(
    "VST3108",
    "xds-bad-response",
    Kind.INTERNAL,
    Fault.PEER,
    meaning="The server's xDS response breaks the protocol: a name twice, a type that was not asked for, or a "
    "name that does not fit its resource.",
    advice="Nothing changed for the proxy; check that server and agent have fitting versions.",
)
SNAPSHOT_UNREADABLE = define(
    "VST3109",
    "xds-snapshot-unreadable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The sealed configuration of a proxy, kept for outages, cannot be read: damaged, or sealed with "
    "another key.",
    advice="Nothing needs to be done: it is set aside and written anew once the server answers.",
)
RESOURCE_INVALID = define(
    "VST3110",
    "xds-resource-invalid",
    Kind.INTERNAL,
    Fault.VESTIBULE,
    meaning="What was compiled for a proxy breaks a rule of Envoy's, or names something that is not there.  The proxy "
    "would refuse it or answer errors, so it was not sent; the proxy keeps what it has.",
    advice="This is a bug of Vestibule's: report it with the message.  Going back to the last intent that worked ends "
    "it.",
)
NOTHING_YET = define(
    "VST3111",
    "xds-nothing-yet",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A single request for resources (a Fetch RPC) came before there was anything to answer it with: no intent "
    "has been read yet, or the agent has not heard from its server.",
    advice="Try again; use a stream, which waits.",
)
PATCH_MISFIT = define(
    "VST3112",
    "xds-patch-misfit",
    Kind.INTERNAL,
    Fault.VESTIBULE,
    meaning="The server said what to change in a resource instead of sending all of it, and what came of that is not "
    "what it should be.  It was not used; the agent begins a new stream, on which everything is sent whole.",
    advice="Nothing needs to be done.  If it comes again and again, it is a bug of Vestibule's: report it.",
)
