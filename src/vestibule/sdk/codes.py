"""Error codes of the SDK."""

from vestibule.errors import Fault, Kind, define

NO_ENDPOINT = define(
    "VST2400",
    "workload-endpoint-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Nothing says where the Workload API is: no address was given and SPIFFE_ENDPOINT_SOCKET is not set.",
    advice="Set SPIFFE_ENDPOINT_SOCKET, for example to unix:///run/vestibule/agent.sock, or give the address; "
    "`vestibule up` and `vestibule sidecar` set the variable for the apps that they start.",
)
MALFORMED_ENDPOINT = define(
    "VST2401",
    "workload-endpoint-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The address of the Workload API is none of the forms of the standard (SPIFFE_Workload_Endpoint.md, "
    "section 4).",
    advice="Write unix:///absolute/path.sock, or tcp://IP:PORT.",
)
NO_SVID = define(
    "VST2402",
    "no-valid-svid",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A source holds no valid SVID at the moment: none came yet, the last one expired while the Workload API "
    "could not be reached, or the workload lost its identity.",
    advice="Read the reason in the message; look at the agent (vestibule status) and at the registration entries "
    "(vestibule entry show).",
)
NO_BUNDLE = define(
    "VST2403",
    "no-bundle-of-trust-domain",
    Kind.UNAUTHENTICATED,
    Fault.OPERATOR,
    meaning="The Workload API gave no trust bundle for a trust domain, so nothing of that domain can be verified.",
    advice="Check that the peer belongs to the expected trust domain; federate with it if it should be trusted.",
)
NOT_AUTHORIZED = define(
    "VST2404",
    "peer-not-authorized",
    Kind.DENIED,
    Fault.CALLER,
    meaning="The peer proved its SPIFFE ID, and it is not one that this side wants to talk to.",
    advice="Check the address that was dialled, or add the ID to the authorizer.",
)
NO_PEER_CERTIFICATE = define(
    "VST2405",
    "no-peer-certificate",
    Kind.UNAUTHENTICATED,
    Fault.PEER,
    meaning="The connection has no verified peer: it did not end its handshake, or was not made with a context of the "
    "SDK.",
    advice="Ask after the handshake, on a connection made with client_context or server_context.",
)
