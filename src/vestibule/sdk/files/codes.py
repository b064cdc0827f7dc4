"""Error codes of SVIDs in files."""

from vestibule.errors import Fault, Kind, define

NOT_WRITTEN = define(
    "VST2450",
    "svid-files-not-written",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Files of SVIDs could not be put in place: rights, a full disk, or something else of that name.",
    advice="Check the directory's owner, mode and free space.  --owner and --group for others' files need root.",
)
ANOTHER_WRITER = define(
    "VST2451",
    "svid-directory-in-use",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="Another process keeps SVIDs in the directory, which takes only one.",
    advice="Stop the other one, or give each a directory of its own.",
)
HINT_UNKNOWN = define(
    "VST2452",
    "svid-hint-unknown",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="None of the identities that the Workload API gives to this process has the hint that was asked for.",
    advice="`vestibule svid fetch` shows them; the hint stands in the registration entry (`vestibule entry show`).",
)
PASSWORD_UNUSABLE = define(
    "VST2453",
    "keystore-password-unusable",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The file of a keystore's password cannot be read, is open to other users, or holds no password that the "
    "programs which read keystores take: at least six printable ASCII characters in one line.",
    advice="Write one into a file of mode 0600: openssl rand -hex 16.",
)
NOT_TOLD = define(
    "VST2454",
    "svid-reader-not-told",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="New SVIDs are in their files, and whoever reads them could not be told so; it goes on with the old ones.",
    advice="Read the reason in the message; reload the program by hand, or it will show an expired certificate.",
)
HELPER_CONFIG = define(
    "VST2455",
    "helper-configuration-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A configuration file of spiffe-helper cannot be read, or says something that cannot be done.",
    advice="The page on files has a table of all its keys.",
)
BAD_LAYOUT = define(
    "VST2456",
    "svid-files-contradict",
    Kind.INVALID,
    Fault.CALLER,
    meaning="What is asked for of files of SVIDs does not fit together.",
    advice="Give each file a name of its own, without a slash: all of them go into one directory.",
)
NO_PRIVATE_PLACE = define(
    "VST2457",
    "no-private-place-for-svids",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="No directory in memory (tmpfs) was found in which a private one could be made for a program's SVIDs, and "
    "keys are not put on a disk without being told so.",
    advice="Name a directory: --under DIR.",
)
