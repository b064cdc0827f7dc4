"""Error codes of starting a server or agent."""

from vestibule.errors import Fault, Kind, define

INVALID_SETTING = define(
    "VST9110",
    "invalid-setting",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A setting in a configuration file, or one on the command line, is unknown or has no sensible value.",
    advice="Correct the setting; the command's --help names them all.",
)
DATA_IN_USE = define(
    "VST9111",
    "data-directory-in-use",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another process works with the same data directory.",
    advice="Stop the other process, or give this one a data directory of its own.",
)
FOREIGN_DATA = define(
    "VST9112",
    "data-of-another-trust-domain",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The data directory holds the authorities of another trust domain than the one in the settings.",
    advice="Use the data directory of this trust domain, or start with an empty one.",
)
DATABASE_LOST = define(
    "VST9120",
    "database-lost",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The data directory is of a server that has worked, and its database is missing.  A new one would be the "
    "authority of nothing that was issued so far.",
    advice="Restore server.db (with server.db-wal, if there is one) from the last backup.  To begin anew for certain, "
    "move the whole data directory away: every agent has to join again.",
)
NO_INTENT_DIRECTORY = define(
    "VST9113",
    "no-intent-directory",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="A sidecar wants to register with a server that runs without an intent directory.",
    advice="Start the server with --intent DIR.",
)
UNSAFE_SOCKET_DIRECTORY = define(
    "VST9114",
    "unsafe-socket-directory",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The directory of the operator's socket lets other users put something else in the socket's place.",
    advice="Choose a directory that only this user (or root) can write to, such as one of mode 0700.",
)
LONE_NO_CERTIFICATE = define(
    "VST7330",
    "lone-no-certificate",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="A lone sidecar asks the agent of its machine for the certificate of the identity in its file, and has not "
    "got it: without it, it neither calls anybody nor takes calls.",
    advice="Let the agent run, and have an entry (`vestibule entry create`, or SPIRE's) that gives this identity to "
    "the user as whom Envoy runs; `vestibule svid fetch` shows what this user has.",
)
LONE_CREDENTIAL = define(
    "VST7331",
    "lone-credential-printed",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A printed bootstrap is to send a credential whose prefix stands in the intent: an Envoy by itself sends a "
    "file as it is, and the credential itself is never printed.",
    advice="Put the whole value, prefix and all and without an end of line, into the file, and leave `prefix` out.",
)
LONE_OPTION = define(
    "VST7332",
    "lone-option",
    Kind.INVALID,
    Fault.CALLER,
    meaning="An option of a sidecar that a control plane guides says nothing to one that is guided by a file, or the "
    "other way round.",
    advice="With --static, write it in the file (docs/lone-sidecar.md); without, name the service: --service NAME.",
)
