"""Where the token service is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.codes import NO_TOKENS_ADDRESS
from vestibule.sdk.holder import Holder
from vestibule.sdk.platform import ServiceAddress, platform_service_of

VARIABLE: Final = "VESTIBULE_UPSTREAM_TOKENS"
EGRESS: Final = "VESTIBULE_EGRESS"
SERVICE: Final = "tokens"
"""By this name sidecars know it."""

PLATFORM_PATH: Final = "/vestibule/tokens"
"""Of the token service's SPIFFE ID in every trust domain."""

_HTTPS_PORT: Final = 8300


class TokensAddress(ServiceAddress):
    """That of the sidecar, or the token service's own."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, name: str = "") -> TokensAddress:
        """Read ``http://127.0.0.1:15010`` or ``https://tokens.internal:8300``.  Raises: VST6120."""
        return cls.read(text, _HTTPS_PORT, NO_TOKENS_ADDRESS, name)

    @classmethod
    def find(cls, text: str | None = None, environment: Mapping[str, str] = os.environ) -> TokensAddress:
        """The given address, or the sidecar's in the environment.  Raises: VST6120."""
        if found := text or environment.get(VARIABLE):
            return cls.parse(found)
        if egress := environment.get(EGRESS):
            # The way to every service, by the name in the request.
            return cls.parse(egress, SERVICE)
        raise NO_TOKENS_ADDRESS.error(f"no address was given, and neither {VARIABLE} nor {EGRESS} is set")


def token_service_of(source: Holder) -> Authorizer:
    """The token service of the trust domain that the source's own SVID is of, whichever that is by then."""
    return platform_service_of(source, PLATFORM_PATH)
