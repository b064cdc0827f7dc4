"""Error codes of the identity service."""

from vestibule.errors import Fault, Kind, define

FOREIGN_CSR_ID = define(
    "VST1200",
    "foreign-csr-identity",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A certificate signing request names another SPIFFE ID than the one that would be issued.",
    advice="Leave the URI out of the request: the registration entry decides the identity.",
)
FOREIGN_BUNDLE_REFUSED = define(
    "VST1230",
    "foreign-bundle-refused",
    Kind.INVALID,
    Fault.PEER,
    meaning="The bundle of another trust domain holds something that is ours, or more than any real bundle: taking it "
    "could let that trust domain speak for this one.  The bundle held before stays in use.",
    advice="Ask the other trust domain's operators what they publish.  Trust domains must not share authorities: "
    "whoever has a shared key can mint the identities of both.",
)
OWN_TRUST_DOMAIN = define(
    "VST1231",
    "own-trust-domain",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A federated bundle or a federation relationship is to be kept for the server's own trust domain.",
    advice="Name the other trust domain; the own bundle is kept by the server itself.",
)
BUNDLE_EXISTS = define(
    "VST1232",
    "federated-bundle-exists",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="There is a bundle of this trust domain already.",
    advice="Update or set it instead of creating it.",
)
BUNDLE_NOT_FOUND = define(
    "VST1233",
    "federated-bundle-not-found",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no bundle of this trust domain.",
    advice="List those that there are with vestibule bundle list.",
)
INVALID_RELATIONSHIP = define(
    "VST1234",
    "invalid-federation-relationship",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A federation relationship breaks a rule of SPIFFE Federation.",
    advice="Give a trust domain, an https URL without user and password, and a profile: https_web, or https_spiffe "
    "with the SPIFFE ID of the endpoint's server.",
)
NO_ENDPOINT_TRUST = define(
    "VST1235",
    "no-bundle-for-endpoint",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A bundle endpoint is to be known by its SPIFFE ID, and there is no bundle with authorities of that ID's "
    "trust domain to verify it with.",
    advice="Get the bundle from the other side's operators over a way that you trust, and set it with vestibule bundle "
    "set, or with --trust-domain-bundle when the relationship is made.",
)
OLDER_BUNDLE = define(
    "VST1236",
    "older-bundle",
    Kind.PRECONDITION,
    Fault.PEER,
    meaning="A bundle endpoint answers with an older bundle than one that it gave before, going by spiffe_sequence: "
    "authorities that were withdrawn since would be trusted again.  The bundle held before stays in use.",
    advice="If the other trust domain began anew, set its bundle by hand (vestibule bundle set).  Otherwise tell its "
    "operators: some replica or cache of theirs is out of date.",
)
RELATIONSHIP_CHANGED = define(
    "VST1237",
    "federation-changed-meanwhile",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="While a bundle was being fetched, the relationship or the bundle was changed; what came was dropped.",
    advice="Nothing needs to be done: it is fetched again.",
)
ENTRY_NOT_AUTHORIZED = define(
    "VST1201",
    "entry-not-authorized",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no such registration entry, or it does not belong to the agent that asks.",
    advice="Check the entry's parent: it must be the agent, one of its aliases, or an entry below them.",
)
MISSING_PARAMETER = define(
    "VST1202",
    "missing-parameter",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request lacks something it cannot go without.",
    advice="Fill in what the message names.",
)
INVALID_ENTRY = define(
    "VST1203",
    "invalid-entry",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A registration entry breaks a rule.",
    advice="Correct what the message names and send the entry again.",
)
FOREIGN_TRUST_DOMAIN = define(
    "VST1204",
    "foreign-trust-domain",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A SPIFFE ID belongs to another trust domain than the server's.",
    advice="Use an ID of the server's own trust domain; vestibule bundle show prints it.",
)
RESERVED_ID = define(
    "VST1205",
    "reserved-spiffe-id",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A workload's SPIFFE ID has no path, or lies below /spire/, which is kept for servers and agents.",
    advice="Choose a path such as /ns/prod/sa/web.",
)
ENTRY_NOT_FOUND = define(
    "VST1206",
    "entry-not-found",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no registration entry with this ID.",
    advice="List the entries with vestibule entry show.",
)
BATCH_TOO_LARGE = define(
    "VST1207",
    "batch-too-large",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="A batch asks for more SVIDs than one call may.",
    advice="Ask for at most 500 SVIDs per call.",
)
AGENT_NOT_FOUND = define(
    "VST1208",
    "agent-not-found",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no attested agent with this SPIFFE ID.",
    advice="List the agents with vestibule agent list.",
)
INVALID_TTL = define(
    "VST1209",
    "invalid-ttl",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A time to live is missing, negative or too long.",
    advice="Give whole seconds, at least 1.",
)
AGENT_NOT_ATTESTED = define(
    "VST1210",
    "agent-not-attested",
    Kind.DENIED,
    Fault.PEER,
    meaning="The server does not know the agent: it was never attested, or has been evicted.",
    advice="Let the agent attest again, with a new join token if that is how it joined.",
)
AGENT_BANNED = define(
    "VST1211",
    "agent-banned",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="The agent was banned by an operator.  It loses its SVID and may not come back.",
    advice="If the ban was a mistake, evict the agent (vestibule agent evict) and attest it again.",
)
AGENT_NOT_ACTIVE = define(
    "VST1212",
    "agent-svid-not-active",
    Kind.DENIED,
    Fault.PEER,
    meaning="The agent shows an SVID that has been replaced by a newer one.",
    advice="Let the agent attest again.  If it did not renew by itself, somebody else may hold its key.",
)
AGENT_EXPIRED = define(
    "VST1213",
    "agent-svid-expired",
    Kind.DENIED,
    Fault.PEER,
    meaning="The agent's SVID has expired.",
    advice="Let the agent attest again; check both clocks.",
)
AGENT_MUST_REATTEST = define(
    "VST1214",
    "agent-must-reattest",
    Kind.DENIED,
    Fault.PEER,
    meaning="The agent asked for a renewal where its kind of attestation can be repeated.",
    advice="Let the agent attest again.",
)
NO_ACTIVE_AUTHORITY = define(
    "VST1300",
    "no-active-authority",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The server has no authority that could sign now.",
    advice="Look into the server's log for why the next authority could not be prepared (disk, key manager).",
)
IDENTITY_REVOKED = define(
    "VST1250",
    "identity-revoked",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="Nothing is issued to this identity, because it was revoked.",
    advice="See why with `vestibule revoke list`; once it may have SVIDs again, `vestibule revoke lift` it.",
)
NOTHING_TO_REVOKE = define(
    "VST1251",
    "nothing-to-revoke",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="What should be revoked, or what should be lifted, is not known here.",
    advice="Look at `vestibule agent list`, `vestibule entry show`, `vestibule revoke list`; give a certificate as a "
    "PEM file, or its serial number together with --authority.",
)
NOT_LIFTABLE = define(
    "VST1252",
    "revocation-not-liftable",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="Only the revocation of an identity can be lifted, so that it gets new SVIDs; what was revoked stays so.",
    advice="A revoked certificate or authority is replaced by another one.  A revoked agent is evicted (vestibule "
    "agent evict) and attests again.",
)
REVOCATION_NOT_KEPT = define(
    "VST1254",
    "revocation-not-kept",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The revocation is in force here and at connected agents, but the server could not write it down: it "
    "would not survive a restart of the server.",
    advice="Make room on the disk of the data directory, or mend the database; the server tries again by itself. Check "
    "with `vestibule revoke list` after its next start.",
)
WOULD_CUT_EVERYTHING = define(
    "VST1253",
    "revocation-would-cut-everything",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The revocation would make everything that this server issues worthless, or the server itself.",
    advice="Move issuing to another authority first: for an authority of an upstream, see `vestibule "
    "upstreamauthority`; the runbook for emergencies has the order of steps.",
)
UNKNOWN_PARENT = define(
    "VST1301",
    "unknown-parent",
    Kind.INVALID,
    Fault.CALLER,
    meaning="No agent has the parent ID of an entry, and no entry has it as its SPIFFE ID, so that nobody would "
    "ever receive the entry.",
    advice="Use the ID of an attested agent (vestibule agent list), the server's ID for a node alias, or the "
    "SPIFFE ID of another entry; or say that the parent is yet to come (--parent-to-come).",
)
NOT_ENTITLED = define(
    "VST1302",
    "identity-not-entitled",
    Kind.DENIED,
    Fault.CALLER,
    meaning="An agent acts for an identity that no registration entry places under it.",
    advice="Create an entry with this identity below the agent, or check which agent the sidecar talks to.",
)
JWT_SVIDS_DISABLED = define(
    "VST1303",
    "jwt-svids-disabled",
    Kind.UNIMPLEMENTED,
    Fault.OPERATOR,
    meaning="The server was told not to issue JWT-SVIDs.",
    advice="Use X509-SVIDs, or take disable_jwt_svids out of the server's settings.",
)
UNKNOWN_AUTHORITY = define(
    "VST1304",
    "unknown-authority",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is no signing authority with this ID.",
    advice="See the IDs with: vestibule authority x509 show, vestibule authority jwt show.",
)
AUTHORITY_IN_USE = define(
    "VST1305",
    "authority-in-use",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The authority that signs can be neither tainted nor revoked.",
    advice="Prepare another one, activate it, and then taint and revoke this one.",
)
AUTHORITY_NOT_OLD = define(
    "VST1306",
    "authority-not-old",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Only an authority that signed before, and no longer does, can be tainted.",
    advice="Activate another authority first; a prepared one is replaced by preparing again.",
)
AUTHORITY_NOT_PREPARED = define(
    "VST1307",
    "authority-not-prepared",
    Kind.INTERNAL,  # as SPIRE says it
    Fault.CALLER,
    meaning="Only a prepared authority can be activated: everybody has to trust it before it signs.",
    advice="Prepare one (vestibule authority x509 prepare), and activate that.",
)
AUTHORITY_NOT_TAINTED = define(
    "VST1308",
    "authority-not-tainted",
    Kind.INTERNAL,  # as SPIRE says it
    Fault.CALLER,
    meaning="Only a tainted authority can be revoked: everybody has to replace what it signed before.",
    advice="Taint it first, wait until the agents have renewed, and then revoke it.",
)
UPSTREAM_IN_CHARGE = define(
    "VST1309",
    "upstream-in-charge",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="This server's authorities are signed by an upstream authority, whose roots are in the bundle: "
    "a local authority is not, and so can be neither tainted nor revoked there.",
    advice="Taint and revoke the upstream's root: vestibule authority upstream taint, on this server or above it.",
)
UPSTREAM_FAILED = define(
    "VST1310",
    "upstream-failed",
    Kind.UNAVAILABLE,
    Fault.PEER,
    meaning="The upstream authority did not sign, or its answer is not what was asked for.",
    advice="See what the message says about it; the server tries again, and signs with what it has meanwhile.",
)
NO_UPSTREAM = define(
    "VST1311",
    "no-upstream",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="This server signs its authorities itself: no upstream authority is configured.",
    advice="Use vestibule authority x509 taint and revoke.",
)
BAN_NOT_KEPT = define(
    "VST1223",
    "ban-not-kept",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="An agent was banned, which holds at once, but the ban could not be written: it ends with the server's "
    "next start.",
    advice="Free space on the disk of the server's database, or make it writable again, and ban the agent again.",
)
RETURN_OFF = define(
    "VST1220",
    "agents-may-not-return",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="An agent wanted to come back with the key of an SVID that has expired, and this server lets none.",
    advice="Let the agent attest again (with a new join token), or start the server with --return-grace 7d.",
)
RETURN_REFUSED = define(
    "VST1221",
    "return-not-proven",
    Kind.DENIED,
    Fault.CALLER,
    meaning="Somebody said to be an agent that is back, and did not show the key and serial number of the last SVID "
    "that this server issued to it: it was evicted, it is a copy of an agent that went on without it, or not an agent.",
    advice="See vestibule agent show for the agent, and the audit log for where the attempt came from.  To let it in: "
    "a new join token.",
)
RETURN_TOO_LATE = define(
    "VST1222",
    "agent-away-too-long",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="An agent came back with its last key, later after the end of its last SVID than this server allows.",
    advice="Make a join token (vestibule token generate, with the machine's name for its entries) and put it into the "
    "agent's --join-token-file; the running agent takes it up.  For the next time: --return-grace of the server.",
)
INVALID_CLAIMS = define(
    "VST1350",
    "invalid-jwt-claims",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An entry's claims for its JWT-SVIDs break a rule: a registered name, a name that the server does not "
    "allow, a value that is no text, number, truth value or list of these, or too much of it.",
    advice="Use names of your own (such as org_team), and keep the claims short.",
)
INVALID_TEMPLATE_ENTRY = define(
    "VST1351",
    "invalid-template-entry",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An entry with a template asks for what templates cannot have, or its variables stand where there is no "
    "template.",
    advice="Give the entry a path template, and leave out admin, downstream and store_svid.",
)
TEMPLATE_REFUSED = define(
    "VST1352",
    "template-not-for-this-agent",
    Kind.DENIED,
    Fault.PEER,
    meaning="An agent asked for an identity of a template that is not its own, for selectors that do not fit the "
    "template, or for an identity that another entry gives to others.",
    advice="vestibule why --spiffe-id ID shows who gives the identity; the server's audit log shows who asked.",
)
TEMPLATE_EXHAUSTED = define(
    "VST1353",
    "template-exhausted",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="A template has given as many identities as it may.",
    advice="Raise the entry's max_identities if that many are right; else look in the audit log at what was derived.",
)
INVALID_LABELS = define(
    "VST1354",
    "invalid-labels",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An entry's labels break a rule: too many, too long, or a name with characters that are not allowed.",
    advice="At most 32 labels; names of [A-Za-z0-9._/-] up to 128 characters, values up to 256.",
)
WIT_SVIDS_DISABLED = define(
    "VST1312",
    "wit-svids-disabled",
    Kind.UNIMPLEMENTED,
    Fault.OPERATOR,
    meaning="The server issues no WIT-SVIDs, and so has no authorities for them.",
    advice="Use X509-SVIDs or JWT-SVIDs.",
)
JWT_KEY_REFUSED = define(
    "VST1313",
    "jwt-authority-refused",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A downstream server wants a JWT authority published that is malformed, or whose ID is taken.",
    advice="See what the message says about it; let the downstream server make another key.",
)
JWT_KEY_REVOKED = define(
    "VST1314",
    "jwt-authority-revoked",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A downstream server wants a JWT authority published that was revoked here.",
    advice="Let the downstream server sign with another key: vestibule authority jwt prepare, and activate, there.",
)
TOO_MANY_JWT_KEYS = define(
    "VST1315",
    "too-many-jwt-authorities",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="A downstream server has published more JWT authorities than any rotation needs.",
    advice="See what makes it do so; its keys leave the bundle when they expire.",
)
APPENDED_REFUSED = define(
    "VST1316",
    "appended-authority-refused",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An authority that is to be appended to the bundle is unusable, of another trust domain, or revoked here.",
    advice="See what the message says about it. Authorities of other trust domains belong in their own bundles: "
    "vestibule bundle set.",
)
OUT_OF_SCOPE = define(
    "VST1355",
    "outside-granted-scope",
    Kind.DENIED,
    Fault.CALLER,
    meaning="An administrator with bounds asked for something outside of them.",
    advice="A full administrator sees the bounds with vestibule admin list, and can grant more with vestibule admin "
    "grant.",
)
INVALID_ADMINISTRATOR = define(
    "VST1356",
    "invalid-administrator",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A grant of administrative powers breaks a rule, or bounds nothing where it has to.",
    advice="Name the powers, and for entries the paths and parents that bound them.",
)
ADMINISTRATOR_NOT_FOUND = define(
    "VST1357",
    "administrator-not-found",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no grant of administrative powers with this ID.",
    advice="List the grants with vestibule admin list.",
)
