"""Error codes of plain HTTP calls."""

from vestibule.errors import Fault, Kind, define

HTTP_UNREACHABLE = define(
    "VST2340",
    "http-server-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="An HTTP server that is asked for evidence or keys cannot be reached, is not trusted, or does not answer "
    "in time.",
    advice="Check the address or socket that the message names, its permissions, and the CA that should have signed "
    "its certificate.",
)
HTTP_ANSWER = define(
    "VST2341",
    "http-answer-refused",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="An HTTP server answered with something that is not HTTP/1.1, or with more than is read.",
    advice="Check that the address is that of the service that it should be.",
)
ADDRESS_NOT_PERMITTED = define(
    "VST2342",
    "http-address-not-permitted",
    Kind.DENIED,
    Fault.PEER,
    meaning="A name that was given from outside leads to an address that must not be called in its behalf, such as "
    "this machine's own.",
    advice="Check the name in the DNS.  Where it is right, permit such addresses in the settings.",
)
