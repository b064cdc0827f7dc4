"""Error codes of the audit log."""

from vestibule.errors import Fault, Kind, define

AUDIT_UNAVAILABLE = define(
    "VST8100",
    "audit-unavailable",
    Kind.UNAVAILABLE,
    Fault.OPERATOR,
    meaning="The audit log can not be written, so the action that had to be recorded was not done.",
    advice="Free space on the disk of the audit log and check that it works; no restart is needed.",
)
AUDIT_DAMAGED = define(
    "VST8101",
    "audit-damaged",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The end of the audit log is not what this program writes: it was changed, or the disk lost data.",
    advice="Keep the file for examination and move it away, so that a new log can begin; verifying it names the line.",
)
AUDIT_IN_USE = define(
    "VST8102",
    "audit-in-use",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="Another process writes to this audit log; two writers would break its chain.",
    advice="Stop the other process, or give each its own log.",
)
CHECKPOINT_CONFLICT = define(
    "VST8103",
    "audit-checkpoint-conflict",
    Kind.PRECONDITION,
    Fault.OPERATOR,
    meaning="The audit log is not the one of which a checkpoint was signed: its end was cut off, or it was replaced.",
    advice="Keep all of audit.jsonl* for examination and move it away, so that a new log can begin; `vestibule audit "
    "verify --key` names what differs.",
)
PROOF_INVALID = define(
    "VST8104",
    "audit-proof-invalid",
    Kind.INVALID,
    Fault.CALLER,
    meaning="The proof does not show that the record is in the log: record, path, checkpoint and key do not fit.",
    advice="Have it made anew (`vestibule audit prove`), and check that the key is the log's (`vestibule audit key`).",
)
NOT_PROVABLE = define(
    "VST8105",
    "audit-record-not-provable",
    Kind.NOT_FOUND,
    Fault.CALLER,
    meaning="There is no such record, or no checkpoint of the log includes it yet.",
    advice="Checkpoints are made each minute, and every 1,000 records: try again then.",
)
