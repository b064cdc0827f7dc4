"""Where the secret manager is: behind the sidecar, or at its own port."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.codes import NO_SECRETS_ADDRESS
from vestibule.sdk.tls import Holder
from vestibule.spiffe import SpiffeId

VARIABLES: Final = ("VESTIBULE_UPSTREAM_SECRETS", "VAULT_ADDR")
PLATFORM_PATH: Final = "/vestibule/secrets"
"""Of the secret manager's SPIFFE ID in every trust domain."""

_PORTS: Final = {"http": 80, "https": 8200}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsAddress:
    """``http`` is the sidecar's, which speaks mutual TLS for the app; ``https`` wants the app's own SVID."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> SecretsAddress:
        """Read ``http://127.0.0.1:15010`` or ``https://secrets.internal:8200``.  Raises: VST2406."""
        url = urlsplit(text if "://" in text else f"http://{text}")
        try:
            port = url.port
        except ValueError:
            port = 0
        plain = url.path in ("", "/") and not url.query and not url.fragment and url.username is None
        if url.scheme not in _PORTS or not url.hostname or port == 0 or not plain:
            raise NO_SECRETS_ADDRESS.error(f"{text[:200]!r} is not http://HOST:PORT or https://HOST:PORT")
        return cls(scheme=url.scheme, host=url.hostname, port=port or _PORTS[url.scheme])

    @classmethod
    def find(cls, text: str | None = None, environment: Mapping[str, str] = os.environ) -> SecretsAddress:
        """The given address, or the one of the environment.  Raises: VST2406."""
        found = text or next((value for name in VARIABLES if (value := environment.get(name))), None)
        if not found:
            raise NO_SECRETS_ADDRESS.error(
                f"no address was given, and neither {' nor '.join(VARIABLES)} is set"
            )
        return cls.parse(found)

    @property
    def shows_svid(self) -> bool:
        """Whether the client itself speaks mutual TLS."""
        return self.scheme == "https"

    @property
    def host_header(self) -> str:
        """As HTTP wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


def secret_manager_of(source: Holder) -> Authorizer:
    """The secret manager of the trust domain that the source's own SVID is of, whichever that is by then."""
    return _Manager(source)


@dataclass(frozen=True, slots=True)
class _Manager:
    source: Holder

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id == self._wanted()

    def __str__(self) -> str:
        return str(self._wanted())

    def _wanted(self) -> SpiffeId:
        return SpiffeId.of(self.source.svid.spiffe_id.trust_domain, PLATFORM_PATH)
