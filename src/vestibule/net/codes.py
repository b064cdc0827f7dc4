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
SOCKET_PATH = define(
    "VST2310",
    "socket-path-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A Unix socket cannot be made at the path: it is longer than 107 bytes, its directory is missing or not "
    "writable, or something that is not a socket lies there.",
    advice="Choose a short path in a directory that exists and is yours, such as /run/vestibule/agent.sock.",
)
SOCKET_IN_USE = define(
    "VST2311",
    "socket-in-use",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another process answers at the address.",
    advice="Stop the other process, or choose another address for this one.",
)
PEER_GONE = define(
    "VST2312",
    "peer-gone",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The process that opened the connection has ended, or cannot be told apart from its successor, so nothing "
    "is answered on its behalf.",
    advice="Open the connection from the process that will use it, and keep that process alive; run it in the same "
    "PID namespace as the agent or in one below it.",
)
MALFORMED_MESSAGE = define(
    "VST2313",
    "malformed-message",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A gRPC message could not be read: it is cut short, compressed, or not the protobuf type of the call.",
    advice="Use a gRPC client generated from the published protocol files, without compression.",
)
MESSAGE_TOO_LARGE = define(
    "VST2314",
    "message-too-large",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="A gRPC message is larger than this socket accepts.",
    advice="Send less per message, for example fewer items of a batch.",
)
SERVER_NOT_TRUSTED = define(
    "VST2315",
    "server-not-trusted",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The server at the address could not prove that it is the trust domain's server; nothing was sent to it.",
    advice="Check the server's address and, at the first start of an agent, that its trust bundle is the server's "
    "current one (vestibule bundle show).",
)
PORT_IN_USE = define(
    "VST2320",
    "port-in-use",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another process listens on the port.",
    advice="Stop the other process (ss -ltnp shows it), or choose another port.",
)
CANNOT_LISTEN = define(
    "VST2321",
    "cannot-listen",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A port could not be bound: the address is not this machine's, or rights are missing.",
    advice="Check the address and the port, and the rights of the user that runs Vestibule.",
)
PEER_REFUSED = define(
    "VST2322",
    "peer-certificate-refused",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The caller's certificate is not a valid X509-SVID of this trust domain at this instant.",
    advice="Renew the caller's SVID, or check which trust domain issued it.",
)
CALL_NOT_ALLOWED = define(
    "VST2323",
    "call-not-allowed",
    Kind.DENIED,
    Fault.CALLER,
    meaning="This kind of caller may not use the method.",
    advice="Administrative methods are for the operator on the server's private socket; agent methods are "
    "for attested agents over mTLS.",
)
CONNECTION_OUTLIVED = define(
    "VST2324",
    "connection-outlived",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="A stream went on until the certificate of its connection expired.",
    advice="Nothing needs to be done: the client connects again with its current certificate.",
)
TOO_MANY_ATTEMPTS = define(
    "VST2325",
    "too-many-attempts",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="One address tries more often than the server lets it.",
    advice="Wait a few seconds and try again.",
)
TOO_MUCH_AT_ONCE = define(
    "VST2326",
    "too-much-at-once",
    Kind.UNAVAILABLE,  # what clients of the Workload API try again after (SPIFFE_Workload_Endpoint.md, section 6)
    Fault.CALLER,
    meaning="One user of this host, or one other host, has too many connections or calls open, or too many bytes of "
    "messages under way, and would leave nothing for others.",
    advice="Use one connection for many calls and close what is not needed; look for a process that opens "
    "connections in a loop.",
)
