"""What a person pastes, as a symptom: an error page, an exception, a line of Envoy's log."""

from __future__ import annotations

import re
from typing import Final

from vestibule.failures.symptom import Symptom

LONGEST: Final = 65_536
"""Characters of a text that are looked at."""

_CODE: Final = re.compile(r"\bVST\d{4}\b")
_STATUS: Final = (
    re.compile(r"HTTP/[\d.]+\"? (\d{3})\b"),
    re.compile(r"\bstatus(?:[_ ]code)?\"?[=: ]+\"?(\d{3})\b", re.IGNORECASE),
    re.compile(r"\b(?:HTTP )?error:? (\d{3})\b", re.IGNORECASE),
    re.compile(r"^(\d{3})\b"),
)
_FLAGS: Final = frozenset(
    {
        "LH",
        "UH",
        "UT",
        "LR",
        "UR",
        "UF",
        "UC",
        "UO",
        "NR",
        "DI",
        "FI",
        "RL",
        "UAEX",
        "RLSE",
        "DC",
        "URX",
        "SI",
        "IH",
    }
    | {"DPE", "UMSDR", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DR"}
)
# After a status, as in Envoy's own format of logs: `503 UF,URX`.
_FLAGGED: Final = re.compile(r"\b\d{3} ((?:[A-Z]{2,5})(?:,[A-Z]{2,5})*)\b")
_DETAILS: Final = re.compile(
    r"(rbac_access_denied_matched_policy\[[^\]\s]*\]|jwt_authn_access_denied\{[^}]*\}|ext_authz_(?:denied|error)"
    r"|upstream_reset_before_response_started\{[^}]*\}|no_healthy_upstream|cluster_not_found|via_upstream"
    r"|route_(?:configuration_)?not_found|filter_chain_not_found|dns_resolution_failure|local_rate_limited"
    r"|(?:upstream_)?response_timeout|upstream_per_try_timeout|max_duration_timeout|stream_idle_timeout"
    r"|downstream_remote_disconnect|failed_to_inject_credential|fault_filter_abort|duration_timeout)"
)


def read_text(text: str) -> Symptom:
    """Everything in a text that says what went wrong; at most its first ``LONGEST`` characters."""
    text = text.strip()[:LONGEST]
    code = _CODE.search(text)
    details = _DETAILS.search(text)
    return Symptom(
        status=_status(text),
        flags=_flags(text),
        details=details[1] if details else "",
        transport=text,
        code=code[0] if code else "",
        text=text,
    )


def _status(text: str) -> int | None:
    found = next((match for pattern in _STATUS if (match := pattern.search(text))), None)
    return int(found[1]) if found else None


def _flags(text: str) -> frozenset[str]:
    words = {word for match in _FLAGGED.finditer(text) for word in match[1].split(",")}
    return frozenset(words) & _FLAGS
