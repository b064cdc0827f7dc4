"""Error codes of the agent.  Those of attached sidecars are in ``agent.sidecars.codes``."""

from vestibule.errors import Fault, Kind, define

AGENT_IS_BANNED = define(
    "VST2100",
    "agent-is-banned",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="An operator banned this agent.  It has deleted its SVID and everything it kept, and stops.",
    advice="If the ban was a mistake: vestibule agent evict on the server, a new join token, and start it again.",
)
CANNOT_JOIN = define(
    "VST2101",
    "agent-cannot-join",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The agent has no valid SVID and nothing to prove itself with to get one.",
    advice="Make a join token on the server (vestibule token generate), put it into a file with mode 0600 and name "
    "the file with --join-token-file; a running agent reads the file again by itself.",
)
NO_FIRST_TRUST = define(
    "VST2102",
    "no-first-trust",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A new agent was not told how to know the server by its first connection.",
    advice="Give exactly one of: --trust-bundle FILE (vestibule bundle show on the server), --trust-bundle-sha256 HEX, "
    "or, accepting that whoever answers first is believed, --insecure-bootstrap.",
)
UNREADABLE_FILE = define(
    "VST2103",
    "agent-file-unreadable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A file that the agent was told to read is missing, unreadable, too large, or open to other users.",
    advice="Check the path, the owner and the mode that the message names.",
)
FINGERPRINT_MISMATCH = define(
    "VST2104",
    "trust-bundle-mismatch",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The bundle that the server offered at first contact is not the one whose hash was given.",
    advice="Compare with vestibule bundle show on the server.  If the hash is right, somebody else answers at the "
    "server's address.",
)
NO_IDENTITY = define(
    "VST2105",
    "no-identity",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="No registration entry matches what was attested of the calling process, so it has no identity.",
    advice="As the operator, run vestibule why --pid PID on the machine: it names the entries that nearly fit and what "
    "differs.  Or create an entry (vestibule entry create) with one or more of the selectors in the message, and with "
    "this agent (vestibule agent list) or one of its aliases as the parent.",
)
NOT_READY = define(
    "VST2106",
    "identity-not-ready",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The caller has an identity, but the agent has no valid certificate for it now: it was just created, or "
    "expired while the server could not be reached.",
    advice="Try again; if it lasts, look at the agent's connection to the server (vestibule status).",
)
CACHE_UNUSABLE = define(
    "VST2107",
    "agent-cache-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The agent's sealed cache cannot be read or written: changed, sealed with another key, or a full disk.",
    advice="Free space or mend the directory's rights.  A cache that does not open is set aside; the agent then joins "
    "anew and needs a join token.",
)
ALREADY_RUNNING = define(
    "VST2108",
    "agent-already-running",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another agent uses the same data directory.",
    advice="Stop the other agent, or give this one a data directory of its own.",
)
WRONG_SVID = define(
    "VST2109",
    "wrong-svid-issued",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The server returned a certificate for another key or identity than was asked for.  It is not used.",
    advice="Check that agent and server are of the same version; if so, report it with the server's log.",
)
JWT_NOT_ISSUED = define(
    "VST2110",
    "jwt-svid-not-issued",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The caller may have a JWT-SVID, but the agent has no valid one and could not get one from the server now.",
    advice="Try again; if it lasts, look at the agent's connection to the server (vestibule status).",
)
NOT_A_DELEGATE = define(
    "VST2111",
    "not-a-delegate",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="A process asked for identities of others, and none of its own identities is an authorized delegate's.",
    advice="Start the agent with --authorized-delegate and one of the caller's SPIFFE IDs, if it shall act for others.",
)
WIT_NOT_ISSUED = define(
    "VST2113",
    "wit-svid-not-issued",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The caller may have a WIT-SVID, but the agent has no valid one and could not get one from the server now.",
    advice="Try again; if it lasts, look at the agent's connection to the server (vestibule status).",
)
REVOCATIONS_UNKNOWN = define(
    "VST2114",
    "revocations-unknown",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The agent's sealed list of what is revoked is damaged or was sealed with another key, so that the agent "
    "does not know what it must not serve or believe. Until the server has told it the whole list it serves nobody: no "
    "SVIDs, no bundles, no tokens.",
    advice="Restore the agent's connection to the server: it then fetches the list anew and goes on by itself. Find "
    "out what damaged revocations.sealed in its data directory; nobody but the agent writes there.",
)
