"""Error codes of what stands behind the platform's own Envoy."""

from vestibule.errors import Fault, Kind, define

NOT_THE_PLATFORM = define(
    "VST5200",
    "not-the-platform-envoy",
    Kind.DENIED,
    Fault.PEER,
    meaning="A process other than the platform's Envoy connected to one of the server's private sockets, where callers "
    "are believed to be who Envoy says they are.  It was cut off before a byte was read.",
    advice="Call the service at its port, with an SVID.  If nobody did this on purpose, look at what else runs "
    "as the server's user.",
)
NO_CALLER = define(
    "VST5201",
    "caller-unknown",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A request does not prove who makes it: its certificate is none of the trust domain's, has ended or was "
    "revoked, or its token does not count.",
    advice="Present a current X.509-SVID of the trust domain, or log in anew.",
)
