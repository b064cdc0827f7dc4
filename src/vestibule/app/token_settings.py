"""Which settings of the token service fit together."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vestibule.app.codes import INVALID_SETTING
from vestibule.pki.names import dns_name
from vestibule.records import Address
from vestibule.spiffe import TrustDomain

DEFAULT_TOKENS_PORT: Final = 8300
SHORTEST_KEY_LIFE: Final = timedelta(hours=1)
DEFAULT_KEY_LIFE: Final = timedelta(hours=24)
SHORTEST_KEY_PUBLICATION: Final = timedelta(seconds=10)
"""Proxies are told within a second, servers that follow look every two; libraries refetch every ten seconds at most."""
DEFAULT_KEY_PUBLICATION: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """What the settings say of the token service, checked."""

    trust_domain: TrustDomain
    issuer: str
    listen: Address
    advertised: str = ""
    open_port: int | None = None
    web: tuple[Path | None, Path | None] = (None, None)
    dns_names: tuple[str, ...] = ()
    key_life: timedelta = DEFAULT_KEY_LIFE
    key_publication: timedelta = DEFAULT_KEY_PUBLICATION
    transactions: bool = False
    taken: frozenset[int] = field(default_factory=frozenset)

    def check(self) -> None:
        """Raises: VST9110."""
        check_token_issuer(self.issuer)
        if not self.listen.port or self.listen.port in self.taken:
            raise INVALID_SETTING.error("tokens_port must be a port of its own: proxies are told of it")
        if not _is_ip(self.listen.host) or not _is_ip(self.advertised or self.listen.host):
            raise INVALID_SETTING.error("tokens_address and tokens_advertised must be IP addresses")
        if ip_address(self.listen.host).is_unspecified and not self.advertised:
            raise INVALID_SETTING.error(
                f"tokens_address {self.listen.host} is no address to reach anybody at",
                advice="Say in tokens_advertised where proxies reach the token service.",
            )
        if self.key_life < SHORTEST_KEY_LIFE:
            raise INVALID_SETTING.error("tokens_key_life must be at least an hour")
        if not SHORTEST_KEY_PUBLICATION <= self.key_publication <= self.key_life / 2:
            raise INVALID_SETTING.error(
                "tokens_key_publication must be at least ten seconds, and at most half of tokens_key_life"
            )
        for name in self.dns_names:
            dns_name(name)
        self._check_open()

    def _check_open(self) -> None:
        if (self.web[0] is None) != (self.web[1] is None):
            raise INVALID_SETTING.error("tokens_open_tls_cert and tokens_open_tls_key belong together")
        if self.open_port is None:
            if self.web[0] is not None:
                raise INVALID_SETTING.error("tokens_open_tls_cert and _key need tokens_open_port")
            return
        if self.open_port in (0, self.listen.port, *self.taken):
            raise INVALID_SETTING.error("tokens_open_port must be a port, and another one than the others")

    @property
    def place(self) -> Address:
        """Where proxies reach it."""
        return Address(host=self.advertised or self.listen.host, port=self.listen.port)

    @property
    def open_listen(self) -> Address | None:
        """Where clients without certificate reach it, if anywhere."""
        return None if self.open_port is None else Address(host=self.listen.host, port=self.open_port)

    @property
    def names(self) -> tuple[str, ...]:
        """The DNS names in its certificate."""
        own = urlsplit(self.issuer).hostname or ""
        local = ("localhost",) if ip_address(self.listen.host).is_loopback else ()
        return tuple(dict.fromkeys((*self.dns_names, own, *local)))


def check_token_issuer(text: str) -> None:
    """RFC 8414, section 2: https, a host, no query and no fragment; here no path either.  Raises: VST9110."""
    url = urlsplit(text)
    plain = text == f"https://{url.netloc}" and "@" not in text and text.isascii() and text == text.lower()
    if not plain or not url.hostname:
        raise INVALID_SETTING.error(
            f"tokens_issuer {text!r} is not https://HOST[:PORT] in lower case",
            advice="It need not be reachable; it is what the claim iss says, and what assertions are made for.",
        )


def _is_ip(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
