"""Error codes of the store."""

from vestibule.errors import Fault, Kind, define

STORE_UNUSABLE = define(
    "VST8000",
    "store-unusable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The database can not be opened, read or written.",
    advice="Check that the data directory exists, belongs to the user that runs the server, and that its disk works "
    "and has space.",
)
STORE_FULL = define(
    "VST8001",
    "store-full",
    Kind.EXHAUSTED,
    Fault.OPERATOR,
    meaning="There is no space for the change, which was not made.  Everything kept before is intact and readable.",
    advice="Free space on the disk of the data directory; no restart is needed.",
)
STORE_BUSY = define(
    "VST8002",
    "store-busy",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="Another process held the database for too long; the change was not made.",
    advice="Try again; find the other process (a backup, a second server) that has the database open.",
)
STORE_DAMAGED = define(
    "VST8003",
    "store-damaged",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="The file is not a Vestibule database, or it is damaged.",
    advice="Stop the server, keep the file for examination and restore the last backup.",
)
STORE_NEWER = define(
    "VST8004",
    "store-newer",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The database was written by a newer version of Vestibule, so this one does not touch it.",
    advice="Start the newer version again, or restore the backup that it made before it migrated the database.",
)
UNSTORABLE = define(
    "VST8005",
    "unstorable-value",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A value holds what the database cannot keep, such as a text with a NUL character.  Nothing was changed.",
    advice="Leave the unprintable characters out.",
)
STORE_UNREACHABLE = define(
    "VST8006",
    "store-unreachable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The PostgreSQL server cannot be reached, is starting or stopping, or is a standby.  Whether a change that "
    "was under way then was made is not known.  Agents and workloads go on with what they hold; the server connects "
    "again by itself.",
    advice="Look whether PostgreSQL runs and can be reached from here; `/ready` says so as soon as it can.",
)
STORE_REFUSED = define(
    "VST8007",
    "store-refused",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="PostgreSQL does not let the server in, or does not let it do what it has to.",
    advice="Check user, password and database of the connection string, `pg_hba.conf`, and that the user owns the "
    "database's tables.",
)
MALFORMED_ADDRESS = define(
    "VST8008",
    "malformed-database-address",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="The connection string of the database cannot be used.  It is not shown, since it may hold a password.",
    advice="Write `postgresql://USER:PASSWORD@HOST/DATABASE`, or libpq's `host=… dbname=… user=…`, with %-encoding "
    "in the first form.",
)
ENTRY_ID_TAKEN = define(
    "VST8010",
    "entry-id-taken",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="A registration entry with this ID exists, and it says something else.",
    advice="Choose another ID, leave it out, or update the existing entry.",
)
NO_SUCH_ENTRY = define(
    "VST8011",
    "no-such-entry",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no registration entry with this ID.",
    advice="List the entries; it may have been deleted meanwhile.",
)
SIMILAR_ENTRY = define(
    "VST8012",
    "similar-entry",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="The update would give two entries the same SPIFFE ID, parent ID and selectors.",
    advice="Delete one of the two, or let them differ in a selector.",
)
MALFORMED_PAGE_TOKEN = define(
    "VST8013",
    "malformed-page-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The page token of a listing is not one that the store gave.",
    advice="Pass the token of the previous page unchanged, or none for the first page.",
)
UNKNOWN_FEDERATION = define(
    "VST8014",
    "entry-federates-with-unknown",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A registration entry is to federate with a trust domain whose bundle is not known here.",
    advice="Create the federation relationship first (vestibule federation create), or set the bundle by hand "
    "(vestibule bundle set); vestibule bundle list shows those that there are.",
)
UNKNOWN_JOIN_TOKEN = define(
    "VST8020",
    "unknown-join-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The join token was never made by this server, or it is long expired.",
    advice="Make a new one with `vestibule token generate` and give it to the agent whole.",
)
USED_JOIN_TOKEN = define(
    "VST8021",
    "used-join-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The join token was used before; each one lets one agent in, once.",
    advice="If it was not your agent that used it, evict the agent that did.  Make a new token for this one.",
)
EXPIRED_JOIN_TOKEN = define(
    "VST8022",
    "expired-join-token",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The join token was not used in its time.",
    advice="Make a new one with `vestibule token generate`, perhaps with a longer `--ttl`, and use it soon.",
)
KNOWN_JOIN_TOKEN = define(
    "VST8023",
    "known-join-token",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="A join token with this value exists or existed.",
    advice="Let the server choose the value: tokens must be random.",
)
BUNDLE_IN_USE = define(
    "VST8030",
    "federated-bundle-in-use",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The bundle of a trust domain is to be deleted, and registration entries federate with it.",
    advice="Take the trust domain out of those entries first, or delete the bundle with --mode dissociate (which does "
    "that) or --mode delete (which deletes the entries).",
)
ENTRIES_CHANGED = define(
    "VST8031",
    "federated-entries-changed",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="While a federated bundle was being deleted, further entries began to federate with it; nothing was done.",
    advice="Try again.",
)
KNOWN_RELATIONSHIP = define(
    "VST8032",
    "federation-relationship-exists",
    Kind.ALREADY_EXISTS,
    Fault.CALLER,
    meaning="There is a federation relationship with this trust domain already.",
    advice="Change it with vestibule federation update.",
)
NO_SUCH_RELATIONSHIP = define(
    "VST8033",
    "no-such-federation-relationship",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no federation relationship with this trust domain.",
    advice="List them with vestibule federation list.",
)
SEALED = define(
    "VST5000",
    "secrets-sealed",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The secret manager is sealed: what it keeps is encrypted with a key that it does not hold now.",
    advice="Unseal it: `vestibule secret unseal`, once for each share that is needed.",
)
CONFLICT = define(
    "VST5001",
    "secrets-conflict",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="What was to be changed was changed by somebody else meanwhile, or is not at the version that was named.",
    advice="Read it again, and repeat the change on what is there now.",
)
