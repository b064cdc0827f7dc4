"""Where the platform's own services are, and how a client knows them: behind the sidecar, or at their own ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from vestibule.errors import ErrorCode
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.holder import Holder
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddress:
    """``http`` is the sidecar's, which speaks mutual TLS for the app; ``https`` wants the app's own SVID.

    ``name`` is the service that is meant, where an address serves several.
    """

    scheme: str
    host: str
    port: int
    name: str = ""

    @classmethod
    def read(cls, text: str, https_port: int, code: ErrorCode, name: str = "") -> Self:
        """Read ``http://127.0.0.1:15010`` or ``https://secrets.internal``.  Raises: ``code``."""
        url = urlsplit(text if "://" in text else f"http://{text}")
        try:
            port = url.port
        except ValueError:
            port = 0
        plain = url.path in ("", "/") and not url.query and not url.fragment and url.username is None
        if url.scheme not in ("http", "https") or not url.hostname or port == 0 or not plain:
            raise code.error(f"{text[:200]!r} is not http://HOST:PORT or https://HOST:PORT")
        usual = 80 if url.scheme == "http" else https_port
        return cls(scheme=url.scheme, host=url.hostname, port=port or usual, name=name)

    @property
    def shows_svid(self) -> bool:
        """Whether the client itself speaks mutual TLS."""
        return self.scheme == "https"

    @property
    def host_header(self) -> str:
        """As HTTP wants it."""
        return self.name or self._place

    def __str__(self) -> str:
        return f"{self.scheme}://{self._place}"

    @property
    def _place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def platform_service_of(source: Holder, path: str) -> Authorizer:
    """The service of this path, of the trust domain that the source's own SVID is of, whichever that is by then."""
    return _PlatformService(source, path)


@dataclass(frozen=True, slots=True)
class _PlatformService:
    source: Holder
    path: str

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id == self._wanted()

    def __str__(self) -> str:
        return str(self._wanted())

    def _wanted(self) -> SpiffeId:
        return SpiffeId.of(self.source.svid.spiffe_id.trust_domain, self.path)
