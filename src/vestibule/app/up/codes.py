"""Error codes of `vestibule up`."""

from vestibule.errors import Fault, Kind, define

NO_INTENT = define(
    "VST7300",
    "up-without-intent",
    Kind.INVALID,
    Fault.CALLER,
    meaning="There is no intent to run: the directory is missing, or none was named and the example is not installed.",
    advice="Name a directory that holds mesh.yaml, services/*.yaml and up.yaml: vestibule up DIR.",
)
NOTHING_TO_RUN = define(
    "VST7301",
    "up-without-apps",
    Kind.INVALID,
    Fault.CALLER,
    meaning="up.yaml names no app, so there is nothing to start.",
    advice="Add the commands of your services to up.yaml: apps: {web: {run: [python, web.py]}}.",
)
ALREADY_UP = define(
    "VST7302",
    "already-up",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="Another `vestibule up` runs with the same state directory.",
    advice="Stop the other one (Ctrl-C in its terminal), or give this one a state directory of its own: --state DIR.",
)
NO_RUNTIME_DIRECTORY = define(
    "VST7303",
    "no-runtime-directory",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="No directory with a path short enough for Unix sockets can be made.",
    advice="Set XDG_RUNTIME_DIR to a directory of yours with a short path, or make /tmp writable.",
)
INTERRUPTED = define(
    "VST7304",
    "up-interrupted",
    Kind.UNAVAILABLE,
    Fault.CALLER,
    meaning="The run was ended by a signal before everything was proven.",
    advice="Run it again, and let it finish.",
)
ENTRY_REFUSED = define(
    "VST7305",
    "up-entry-refused",
    Kind.PRECONDITION,
    Fault.VESTIBULE,
    meaning="The server refused a registration entry that `vestibule up` derived from the intent.",
    advice="Read the server's message; if the intent is valid, this is a bug: report it.",
)
NO_BRANCH = define(
    "VST7306",
    "up-without-branch",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="`vestibule up --committed` follows the branch that is checked out around its directory; there is none.",
    advice="Commit the directory to a repository and check out a branch, or leave out --committed to follow the files.",
)
