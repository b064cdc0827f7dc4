"""Error codes of node attestation."""

from vestibule.errors import Fault, Kind, define

MALFORMED_JOIN_TOKEN = define(
    "VST2000",
    "malformed-join-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A join token must be usable as a segment of the agent's SPIFFE ID.",
    advice="Let the server choose it (vestibule token generate), or use at most 255 of [A-Za-z0-9._-].",
)
UNKNOWN_ATTESTATION_TYPE = define(
    "VST2001",
    "unknown-attestation-type",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The server has no attestor for the evidence that the agent offers.",
    advice="Enable the attestor on the server, or let the agent attest with a join token.",
)
UNEXPECTED_CHALLENGE = define(
    "VST2002",
    "unexpected-challenge",
    Kind.INVALID,
    Fault.PEER,
    meaning="The server sent a challenge in a kind of attestation that has none.",
    advice="Check that agent and server agree on the attestation type.",
)
