"""What the server's halves have in common: reading an agent's evidence, and naming the agent that it proves."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

from vestibule.attest.documents import json_object
from vestibule.attest.node.codes import EVIDENCE_REFUSED, MALFORMED_EVIDENCE
from vestibule.errors import VestibuleError
from vestibule.spiffe import Selector, SpiffeId, TrustDomain

MAX_EVIDENCE: Final = 128 * 1024
MAX_VALUE: Final = 1024


def evidence_object(data: bytes) -> dict[str, Any]:
    """The JSON object that an agent sent.  Raises: VST2003."""
    if len(data) > MAX_EVIDENCE:
        raise MALFORMED_EVIDENCE.error(f"{len(data)} bytes of evidence are not read")
    try:
        return json_object(data)
    except ValueError as error:
        raise MALFORMED_EVIDENCE.error(f"the evidence is not understood: {error}") from None


def from_base64(text: Any) -> bytes:
    """Bytes in JSON.  Raises: VST2003."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MALFORMED_EVIDENCE.error("a part of the evidence is not base64")


def agent_named(trust_domain: TrustDomain, kind: str, *names: str) -> SpiffeId:
    """``spiffe://TD/spire/agent/KIND/NAME…``, each name a single segment.  Raises: VST2004."""
    try:
        if any(not name or "/" in name for name in names):
            raise EVIDENCE_REFUSED.error("a part of the node's name is empty or holds a slash")
        return SpiffeId.of(trust_domain, "/".join(("/spire/agent", kind, *names)))
    except VestibuleError as error:
        if error.code is EVIDENCE_REFUSED:
            raise
        raise EVIDENCE_REFUSED.error(
            f"the node has no name that a SPIFFE ID can hold: {error.message}"
        ) from error


def selectors(kind: str, values: Iterable[str]) -> frozenset[Selector]:
    """Selectors of this kind; a value that is absurdly long is left out."""
    return frozenset(Selector(kind, value) for value in values if len(value) <= MAX_VALUE)
