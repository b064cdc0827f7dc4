"""Where the secret manager is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.codes import NO_SECRETS_ADDRESS
from vestibule.sdk.holder import Holder
from vestibule.sdk.platform import ServiceAddress, platform_service_of

VARIABLES: Final = ("VESTIBULE_UPSTREAM_SECRETS", "VAULT_ADDR")
PLATFORM_PATH: Final = "/vestibule/secrets"
"""Of the secret manager's SPIFFE ID in every trust domain."""

_HTTPS_PORT: Final = 8200


class SecretsAddress(ServiceAddress):
    """That of the sidecar, or the secret manager's own."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> SecretsAddress:
        """Read ``http://127.0.0.1:15010`` or ``https://secrets.internal:8200``.  Raises: VST2406."""
        return cls.read(text, _HTTPS_PORT, NO_SECRETS_ADDRESS)

    @classmethod
    def find(cls, text: str | None = None, environment: Mapping[str, str] = os.environ) -> SecretsAddress:
        """The given address, or the one of the environment.  Raises: VST2406."""
        found = text or next((value for name in VARIABLES if (value := environment.get(name))), None)
        if not found:
            raise NO_SECRETS_ADDRESS.error(
                f"no address was given, and neither {' nor '.join(VARIABLES)} is set"
            )
        return cls.parse(found)


def secret_manager_of(source: Holder) -> Authorizer:
    """The secret manager of the trust domain that the source's own SVID is of, whichever that is by then."""
    return platform_service_of(source, PLATFORM_PATH)
