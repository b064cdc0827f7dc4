"""Error codes of versioned secrets."""

from vestibule.errors import Fault, Kind, define

MALFORMED_PATH = define(
    "VST5100",
    "secret-path-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The path of a secret is written in a way that could be read in two ways, or means something in rules and "
    "to proxies: empty or dot segments, escapes, spaces, what is not ASCII, * ; ? # and the like, or too much of it.",
    advice="Write segments of letters, digits and . _ ~ @ : + = , ! $ & ' ( ) - with single slashes between them: "
    "payments/db.",
)
MALFORMED_VALUE = define(
    "VST5101",
    "secret-value-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What was to be kept as a secret is no JSON object that can be given back as it came.",
    advice="Send an object of names and values; binary data as Base64 text.",
)
VALUE_TOO_LARGE = define(
    "VST5102",
    "secret-value-too-large",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A secret is longer than 1 MiB as JSON text.",
    advice="Keep what is large elsewhere, encrypted with a key that is kept here (or by `transit/datakey`).",
)
CAS_MISMATCH = define(
    "VST5103",
    "secret-version-changed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A write named the version that it builds on (check-and-set), and the secret is at another one: "
    "somebody else has written meanwhile.",
    advice="Read the secret again, and repeat the change with the version that is there now.",
)
CAS_REQUIRED = define(
    "VST5104",
    "secret-version-required",
    Kind.INVALID,
    Fault.CALLER,
    meaning="This secret, or all of them, may be written only by naming the version that the write builds on "
    "(`cas_required`).",
    advice="Send options.cas: the version that you have read, 0 for a secret that must not exist yet.",
)
MALFORMED_SETTINGS = define(
    "VST5105",
    "secret-settings-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="Settings or custom metadata of a secret are out of bounds.",
    advice="Up to 1,000 versions, a duration that is not negative, and up to 64 custom metadata of printable text "
    "(names up to 128 bytes, values up to 512).",
)
TOO_BUSY = define(
    "VST5106",
    "secret-contended",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="Others changed the same secret again and again while this change was tried.",
    advice="Try again later.  Let one place write a secret that changes all the time.",
)
UNREADABLE_ROW = define(
    "VST5107",
    "secret-record-unreadable",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="What is kept of a secret decrypts, but is in a form that this version of Vestibule does not know.",
    advice="Run a version at least as new as the one that wrote it.",
)
TOO_MANY_WAITING = define(
    "VST5108",
    "secret-waiters-exhausted",
    Kind.EXHAUSTED,
    Fault.CALLER,
    meaning="As many requests as one server, or one identity, may have already wait for new versions of secrets.",
    advice="Let each instance of an application wait once, and share what comes; else read every so often.",
)
NO_SUCH_VERSION = define(
    "VST5109",
    "secret-version-not-there",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The version of a secret to go back to is not there: never written, pruned, deleted or destroyed.",
    advice="List the versions (`vestibule secret history PATH`) and choose one that is there; undelete it if it is "
    "deleted.",
)
MALFORMED_REQUEST = define(
    "VST5110",
    "secret-versions-request-malformed",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A request about versioned secrets lacks what it needs, or has it in a form that makes no sense.",
    advice="Compare the request with the page of the API that docs/secrets-kv.md names.",
)
VERSION_LOST = define(
    "VST5111",
    "secret-version-lost",
    Kind.INTERNAL,
    Fault.OPERATOR,
    meaning="What a version of a secret holds is not in the database, although nothing was deleted through Vestibule: "
    "somebody has removed a row, or the database is damaged.",
    advice="Look for who writes to the database beside Vestibule, and restore what is missing from a backup.",
)
