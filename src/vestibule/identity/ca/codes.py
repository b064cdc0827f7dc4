"""Error codes of the offline root and its ceremonies."""

from vestibule.errors import Fault, Kind, define

CA_EXISTS = define(
    "VST1380",
    "ca-file-exists",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A file that the command would write is there already. Keys, certificates and transcripts are never "
    "overwritten.",
    advice="Name another directory or file; move the old one away only if you know that nobody needs it.",
)
CA_UNUSABLE = define(
    "VST1381",
    "ca-directory-unusable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The directory of a certificate authority, or a file that belongs to it, is missing, can not be read or "
    "written, is open to other users, or contradicts its transcript.",
    advice="Name the directory that `vestibule ca init` or `ca request` made, of the user that runs the command.",
)
UNKNOWN_INTERMEDIATE = define(
    "VST1382",
    "unknown-intermediate",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The root has not signed an intermediate with this name or serial number.",
    advice="List what it has signed with `vestibule ca show`.",
)
ALREADY_REVOKED = define(
    "VST1383",
    "intermediate-already-revoked",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The intermediate was revoked before; a revocation is for good and keeps its first date.",
    advice="Publish the root's list anew with `vestibule ca crl`, if that was not done.",
)
WAITING_FOR_CEREMONY = define(
    "VST1384",
    "waiting-for-the-ceremony",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The server has no intermediate to sign with: its request waits for the offline root's signature.",
    advice="Fetch the request with `vestibule ca request --server`, have it signed with `vestibule ca sign`, and "
    "deliver the answer with `vestibule ca install --server`.",
)
DELIVERY_REFUSED = define(
    "VST1385",
    "delivery-refused",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="A certificate that was delivered is not the answer to the request that waits for one, or does not lead to "
    "a configured root.",
    advice="Deliver the file that `vestibule ca sign` wrote for the request as it is now (`vestibule ca request`).",
)
UPSTREAM_FILES = define(
    "VST1386",
    "upstream-files-unusable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The files of the upstream authority can not be used: one is missing, readable by others, malformed, "
    "expired, or does not fit the others.",
    advice="Put certificate chain, key (mode 600) and roots of the same authority there, each replaced by a rename; "
    "the server reads them again when they change.",
)
NO_REQUEST = define(
    "VST1387",
    "no-request",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="No request waits for a ceremony.",
    advice="The server makes the next one when two thirds of its intermediate's life are over; "
    "`vestibule ca request --server --name NAME` makes it now.",
)
CEREMONY_NOT_USED = define(
    "VST1388",
    "ceremony-not-used",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The server does not get its intermediate from a ceremony: it signs by itself or has another upstream.",
    advice="Start it with --upstream ceremony and --upstream-roots, or use the commands of its own upstream.",
)
