"""The identity template: from a service's name to its SPIFFE ID."""

from __future__ import annotations

import re
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.intent import codes
from vestibule.intent.problems import nearest
from vestibule.spiffe import SpiffeId, TrustDomain

PLACEHOLDERS: Final = ("service", "environment", "mesh")
RESERVED: Final = ("spire", "vestibule")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_SAMPLE: Final = dict.fromkeys(PLACEHOLDERS, "a")
_ANYWHERE: Final = TrustDomain.parse("example.org")


def parse(text: str) -> str:
    """A template that gives every service a SPIFFE ID of its own.

    Names are DNS labels and the only thing that varies between services of a mesh, so that a template which
    holds ``{service}`` is injective.  Raises: VST0041, VST0042.
    """
    names = _PLACEHOLDER.findall(text)
    for name in names:
        if name not in PLACEHOLDERS:
            close = nearest(name, PLACEHOLDERS)
            advice = f"Did you mean {{{close}}}?" if close else None
            raise codes.BAD_IDENTITY_TEMPLATE.error(
                f"the identity template holds {{{name[:40]}}}, which means nothing", advice=advice
            )
    if "service" not in names:
        raise codes.BAD_IDENTITY_TEMPLATE.error(
            "the identity template lacks {service}, so that all services would have one identity"
        )
    try:
        render(text, _ANYWHERE, _SAMPLE)
    except VestibuleError as error:
        if error.code is codes.RESERVED_IDENTITY:
            raise
        raise codes.BAD_IDENTITY_TEMPLATE.error(
            f"the identity template does not give SPIFFE IDs: {error.message}"
        ) from error
    return text


def render(template: str, trust_domain: TrustDomain, values: dict[str, str]) -> SpiffeId:
    """The SPIFFE ID for one service; ``values`` has every placeholder.  Raises: VST1400, VST0042."""
    path = _PLACEHOLDER.sub(lambda match: values[match[1]], template)
    spiffe_id = SpiffeId.of(trust_domain, path)
    if is_reserved(spiffe_id):
        raise codes.RESERVED_IDENTITY.error(f"the identity {spiffe_id} is not for services")
    return spiffe_id


def is_reserved(spiffe_id: SpiffeId) -> bool:
    """Whether the ID belongs to servers, agents or the platform's own services."""
    return spiffe_id.path.partition("/")[2].partition("/")[0] in RESERVED
