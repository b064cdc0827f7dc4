"""Error codes of the access-log store."""

from vestibule.errors import Fault, Kind, define

LOG_NOT_WRITTEN = define(
    "VST8201",
    "access-log-not-written",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The access log cannot be written: its disk is full, or its directory is gone.  Calls go on; records are "
    "kept in memory as far as there is room for them, then dropped and counted.",
    advice="Free space on the disk of the agent's data directory; no restart is needed.",
)
LOG_UNREADABLE = define(
    "VST8200",
    "access-log-unreadable",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A line of the access log is not a record that this version understands.",
    advice="The file was edited, or written by a newer version; move it away, and a new one is started.",
)
COVERAGE_UNREADABLE = define(
    "VST8202",
    "coverage-unreadable",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The file is not what `vestibule coverage --save` writes, or a later version wrote it.",
    advice="Name a file that was written with --save.",
)
