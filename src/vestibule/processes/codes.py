"""Error codes of starting and supervising processes."""

from vestibule.errors import Fault, Kind, define

CANNOT_START = define(
    "VST7000",
    "process-cannot-start",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A command could not be executed at all: not found, not executable, or refused by the system.",
    advice="Check the command's path and that this user may execute it.",
)
KEEPS_ENDING = define(
    "VST7001",
    "process-keeps-ending",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A process ended several times in a row before it was ready once, so it is not started again.",
    advice="Read its last output lines, in the message or above it; run the command by hand to see the same.",
)
NOT_READY = define(
    "VST7002",
    "process-not-ready",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A process runs, but did not become ready in the time it was given.",
    advice="Read its last output lines; on a slow machine allow it more time.",
)
UNSAFE_DIRECTORY = define(
    "VST7003",
    "unsafe-directory",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A directory for private sockets cannot be made, belongs to another user, or is open to others.",
    advice="Name a directory of this user with mode 0700, or a new one where this user may write.",
)
DIRECTORY_IN_USE = define(
    "VST7004",
    "directory-in-use",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="Another running process of Vestibule owns the directory.",
    advice="Stop the other one first, or give this one a directory of its own.",
)
PORT_IN_USE = define(
    "VST7005",
    "sidecar-port-in-use",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The port is taken by another process.",
    advice="Find the process with: ss -ltnp 'sport = :PORT'; stop it or choose another port.",
)
NOT_WRITABLE = define(
    "VST7006",
    "directory-not-writable",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A directory in which a part keeps its state or its sockets cannot be written: its disk is full, or its "
    "rights do not allow it.",
    advice="Free space on the disk of the directory, or mend its rights.",
)
USER_UNKNOWN = define(
    "VST7008",
    "user-unknown",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A process is to run as a user that this machine does not have.",
    advice="Name a user of this machine, by name or number: getent passwd lists them.",
)
CANNOT_BECOME = define(
    "VST7009",
    "cannot-become-user",
    Kind.DENIED,
    Fault.OPERATOR,
    meaning="A process is to run as another user, which only root can arrange.",
    advice="Start it as root; or as that user, and leave the option out.",
)
