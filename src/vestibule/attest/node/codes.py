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
MALFORMED_EVIDENCE = define(
    "VST2003",
    "malformed-evidence",
    Kind.INVALID,
    Fault.PEER,
    meaning="An agent's evidence, or its answer to a challenge, is not of the form that its kind of attestation has, "
    "or is larger than is read.",
    advice="Check that agent and server are of versions that agree on the attestation.",
)
EVIDENCE_REFUSED = define(
    "VST2004",
    "evidence-refused",
    Kind.DENIED,
    Fault.PEER,
    meaning="An agent's evidence does not prove a node that the server's settings admit.",
    advice="The message says which check failed.  If the node is one of yours, compare it with the attestor's settings "
    "on the server (docs/attestors.md).",
)
EVIDENCE_USED = define(
    "VST2005",
    "evidence-already-used",
    Kind.DENIED,
    Fault.PEER,
    meaning="The node is attested already, and evidence of its kind counts only the first time, since anybody on the "
    "node can get hold of it.",
    advice="If the agent lost its SVID for a good reason, evict it (vestibule agent evict) and let it attest again.  "
    "Otherwise find out who on that node asked.",
)
FOREIGN_AGENT_ID = define(
    "VST2006",
    "attestor-out-of-bounds",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="A node attestor named an agent, or selectors, outside of what belongs to its kind.",
    advice="Remove or mend the attestor: its agents are below /spire/agent/NAME/ and its selectors are of type NAME.",
)
VERIFIER_UNAVAILABLE = define(
    "VST2007",
    "evidence-verifier-unavailable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Whoever could confirm an agent's evidence, such as a cluster's API server, does not answer as it should.",
    advice="Check the address, the CA and the permissions in the attestor's settings on the server; the agent tries "
    "again by itself.",
)
NO_EVIDENCE = define(
    "VST2008",
    "no-evidence",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The agent cannot get hold of the evidence that it was told to attest with.",
    advice="Check the files or addresses in the settings of the agent's --node-attestor.",
)
UNSAFE_ATTESTOR = define(
    "VST2009",
    "unsafe-attestor-settings",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A node attestor's settings would let anybody in, or contradict each other.",
    advice="Say which nodes are yours (docs/attestors.md).",
)
