"""Error codes of the agent's doors."""

from vestibule.errors import Fault, Kind, define

NO_SECURITY_HEADER = define(
    "VST2200",
    "workload-header-missing",
    Kind.INVALID,
    Fault.CALLER,
    meaning="A Workload API request came without the metadata workload.spiffe.io: true, so it may have been "
    "relayed by something that was tricked into it (SPIFFE_Workload_Endpoint.md, section 6).",
    advice="Use a SPIFFE client library, or send the metadata with every call.",
)
