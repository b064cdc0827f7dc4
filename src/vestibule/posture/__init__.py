"""What is to be thought of an endpoint's TLS: facts in, findings and reports out.  Nothing here opens a socket."""

from vestibule.posture.comparison import Changed, Comparison, compare
from vestibule.posture.facts import (
    Accepted,
    Answer,
    Certificate,
    ClientCertificates,
    Facts,
    Outcome,
    Plain,
    Plaintext,
    Target,
    Tls,
    Trust,
    printable,
)
from vestibule.posture.findings import Finding, Judged, Mutual, Profile, Severity, count, coverage
from vestibule.posture.judging import judge
from vestibule.posture.reading import Scan, as_document, read_scan, write_scan
from vestibule.posture.report import markdown
from vestibule.posture.sarif import sarif
from vestibule.posture.targets import distinct, is_address, parse_list, parse_target

__all__ = [
    "Accepted",
    "Answer",
    "Certificate",
    "Changed",
    "ClientCertificates",
    "Comparison",
    "Facts",
    "Finding",
    "Judged",
    "Mutual",
    "Outcome",
    "Plain",
    "Plaintext",
    "Profile",
    "Scan",
    "Severity",
    "Target",
    "Tls",
    "Trust",
    "as_document",
    "compare",
    "count",
    "coverage",
    "distinct",
    "is_address",
    "judge",
    "markdown",
    "parse_list",
    "parse_target",
    "printable",
    "read_scan",
    "sarif",
    "write_scan",
]
