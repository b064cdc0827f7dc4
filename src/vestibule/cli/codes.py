"""Error codes of the command line itself."""

from vestibule.errors import Fault, Kind, define

USAGE = define(
    "VST9100",
    "usage",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The command's words or options do not fit together.",
    advice="Run the command with --help.",
)
MISSING_EXTRA = define(
    "VST9101",
    "missing-extra",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The command needs parts of Vestibule that are not installed.",
    advice="Install the complete package: pip install 'vestibule[all]'.",
)
NO_SOCKET = define(
    "VST9102",
    "no-socket",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The Unix socket that the command needs is not there: the server or agent is not running, or listens "
    "elsewhere.",
    advice="Start it with vestibule up, server run or agent run, or name its socket with the command's flag.",
)
OUTPUT_LOST = define(
    "VST9103",
    "output-not-written",
    Kind.PRECONDITION,
    Fault.CALLER,
    meaning="The command did its work, but its answer could not be written to standard output, for example because the "
    "disk of the file that it was sent to is full.",
    advice="Send the output elsewhere.  What the command did stays done: look before you repeat it.",
)
DISK_FULL = define(
    "VST9104",
    "disk-full",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A file that the command had to write has no room on its disk, so the command ended.",
    advice="Free space on that disk, then start it again.",
)
NO_INTENT_RUNS = define(
    "VST9105",
    "no-intent-runs",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A plan was asked for against what runs, and the server has no intent in force.",
    advice="Name what to compare with: --against DIR, or --against origin/main.",
)
NO_ACCESS_LOG = define(
    "VST9106",
    "no-access-log",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The access log that the command should read is not there. An agent keeps its own, as access.jsonl "
    "in its data directory, and only for its own user.",
    advice="Name the file, on the machine of a sidecar, as the agent's user.",
)
NO_CASES = define(
    "VST9107",
    "no-policy-cases",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="A policy was to be tested, and beside it are no cases.",
    advice="Write policy-tests/NAME.yaml beside mesh.yaml: cases: [{name: …, from: orders, to: payments, method: POST, "
    "path: /v1/charges, expect: allow}].",
)
NO_SUCH_REQUEST = define(
    "VST9109",
    "request-not-recorded",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="A request was to be explained by its id, and no record of it is there, or none of a call inside the mesh. "
    "Proxies record every denial, and of a lasting load only a sample of what they serve.",
    advice="Name the access logs of the nodes on both sides with --log, or describe the call: "
    "vestibule explain CALLER SERVICE METHOD PATH.",
)
NO_SUCH_RECORD = define(
    "VST9115",
    "no-such-record",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="The access log has nothing of the request that was named: it ran on another machine, is older than what "
    "is kept, or was one of very many calls that went well, of which a sample is kept.",
    advice="Look at the agents' logs of the caller's and of the callee's machine (--log FILE).",
)
UNREADABLE_TEXT = define(
    "VST9116",
    "text-unreadable",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The file with the text that is to be explained cannot be read.",
    advice="Name a file that is there, or - for standard input.",
)
