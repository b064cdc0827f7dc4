"""Error codes of the access-log store."""

from vestibule.errors import Fault, Kind, define

LOG_UNREADABLE = define(
    "VST8200",
    "access-log-unreadable",
    Kind.INVALID,
    Fault.OPERATOR,
    meaning="A line of the access log is not a record that this version understands.",
    advice="The file was edited, or written by a newer version; move it away, and a new one is started.",
)
