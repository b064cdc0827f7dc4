"""What a server is told at its start: from a YAML file, then from the command line, which wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vestibule.app.attestor_choices import Choice, choices_of
from vestibule.app.codes import INVALID_SETTING
from vestibule.app.configuration.sizes import Size
from vestibule.app.git_settings import OPTIONS, FromGit, from_options
from vestibule.app.secret_references import SecretReference
from vestibule.app.token_settings import (
    DEFAULT_KEY_LIFE,
    DEFAULT_KEY_PUBLICATION,
    DEFAULT_TOKENS_PORT,
    TokenSettings,
)
from vestibule.cli.durations import parse_duration
from vestibule.doors.limits import ATTESTATIONS_PER_SECOND, MOST_PER_SECOND, SIGNATURES_PER_SECOND
from vestibule.errors import VestibuleError
from vestibule.identity.entry_rules import DEFAULT_IDENTITIES, MOST_IDENTITIES
from vestibule.identity.rotation import notice, refresh_hint
from vestibule.pki.names import dns_name
from vestibule.records import Address, EndpointProfile
from vestibule.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from vestibule.app.configuration.files import ReadFile

DEFAULT_PORT: Final = 8081
DEFAULT_HEALTH_PORT: Final = 8082
DEFAULT_SECRETS_PORT: Final = 8200
LEAST_AUDIT_FILE: Final = 2**20
AUDIT_FILE_SIZE: Final = Size(64 * 2**20)
SHORTEST_CA: Final = timedelta(seconds=6)
SHORTEST_KEPT: Final = timedelta(minutes=10)
"""Issuers are asked every few minutes: one answer that is missed must not be enough to refuse their tokens."""
LEAST_HINTS_AHEAD: Final = 3
"""So often at least, a partner that keeps to the hint looks between an authority's publication and its first use."""


class KeyStorage(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """Where the private keys of authorities live.  ``memory`` makes a new authority at every start."""

    DISK = "disk"
    MEMORY = "memory"
    PKCS11 = "pkcs11"


class SealKind(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """What keeps the secret manager's root key while the server is not running; ``off``: there is no secret manager."""

    OFF = "off"
    FILE = "file"
    SHAMIR = "shamir"
    PKCS11 = "pkcs11"
    PEERS = "peers"


class Upstream(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """Who signs the authorities, where the server does not do so itself.

    ``spire``: a server above this one; ``disk``: an intermediate in files; ``ceremony``: one that an offline root
    signs by hand.
    """

    SPIRE = "spire"
    DISK = "disk"
    CEREMONY = "ceremony"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything a server is told; nothing else reads the command line, a file or the environment.

    ``database`` is where the PostgreSQL connection string of several servers can be read; without it, the server is
    the only one, and keeps its state in its data directory.

    A port of 0 lets the kernel choose; ``health_port`` of ``None`` serves no health pages, ``oidc_port`` of ``None``
    no discovery pages, ``federation_bundle_endpoint_port`` of ``None`` no bundle endpoint.  The secret manager is there
    with a ``secrets_seal`` only; ``secrets_advertised`` is the host by which proxies reach it.  The token service is
    there with ``tokens`` only, which need the secret manager.
    ``federation_permit_local`` lets bundles be fetched from this machine and from link-local addresses,
    ``issuers_permit_local`` the keys of outside issuers, these also in plain text;
    ``federation_shortest_refresh`` is the least time between two fetches of one bundle.
    """

    trust_domain: TrustDomain
    data_dir: Path
    socket_path: Path
    bind_address: str = "0.0.0.0"  # noqa: S104 - agents come from other machines, over mTLS
    bind_port: int = DEFAULT_PORT
    health_address: str = "127.0.0.1"
    health_port: int | None = DEFAULT_HEALTH_PORT
    ca_ttl: timedelta = timedelta(hours=24)
    default_x509_svid_ttl: timedelta = timedelta(hours=1)
    default_jwt_svid_ttl: timedelta = timedelta(minutes=5)
    disable_jwt_svids: bool = False
    experimental_wit_svids: bool = False
    allowed_jwt_claims: tuple[str, ...] = ("*",)
    template_identities: int = DEFAULT_IDENTITIES
    admin_ids: tuple[SpiffeId, ...] = ()
    jwt_issuer: str = ""
    oidc_address: str = "127.0.0.1"
    oidc_port: int | None = None
    oidc_tls_cert: Path | None = None
    oidc_tls_key: Path | None = None
    agent_ttl: timedelta | None = None
    return_grace: timedelta = timedelta(days=7)
    prune_agents_expired_for: timedelta | None = None
    prune_tofu_agents: bool = False
    key_storage: KeyStorage = KeyStorage.DISK
    kek_file: Path | None = None
    upstream: Upstream | None = None
    upstream_server_address: str = ""
    upstream_workload_api: Path | None = None
    pkcs11_module: Path | None = None
    pkcs11_token: str = ""
    pkcs11_pin_file: Path | None = None
    pkcs11_pin_fd: int | None = None
    database: SecretReference | None = None
    audit_file_size: Size = AUDIT_FILE_SIZE
    audit_files: int = 32
    audit_sinks: tuple[str, ...] = ()
    audit_sink_token_file: Path | None = None
    audit_sink_ca: Path | None = None
    upstream_cert: Path | None = None
    upstream_key: Path | None = None
    upstream_roots: Path | None = None
    upstream_environment: str = "prod"
    intent: Path | FromGit | None = None
    environment: str | None = None
    federation_bundle_endpoint_address: str = "0.0.0.0"  # noqa: S104 - for other trust domains
    federation_bundle_endpoint_port: int | None = None
    federation_bundle_endpoint_profile: EndpointProfile = EndpointProfile.HTTPS_SPIFFE
    federation_bundle_endpoint_tls_cert: Path | None = None
    federation_bundle_endpoint_tls_key: Path | None = None
    federation_bundle_endpoint_refresh_hint: timedelta | None = None
    federation_web_ca: Path | None = None
    federation_permit_local: bool = False
    federation_shortest_refresh: timedelta = timedelta(minutes=1)
    issuers_web_ca: Path | None = None
    issuers_permit_local: bool = False
    issuers_keys_kept: timedelta = timedelta(hours=24)
    ratelimit_attestation: int = ATTESTATIONS_PER_SECOND
    ratelimit_signing: int = SIGNATURES_PER_SECOND
    secrets_seal: SealKind = SealKind.OFF
    secrets_seal_file: Path | None = None
    secrets_peers: tuple[Address, ...] = ()
    secrets_address: str = "127.0.0.1"
    secrets_port: int = DEFAULT_SECRETS_PORT
    secrets_advertised: str = ""
    secrets_token_port: int | None = None
    secrets_token_tls_cert: Path | None = None
    secrets_token_tls_key: Path | None = None
    secrets_dns_names: tuple[str, ...] = ()
    tokens: bool = False
    tokens_issuer: str = ""
    tokens_address: str = "127.0.0.1"
    tokens_port: int = DEFAULT_TOKENS_PORT
    tokens_advertised: str = ""
    tokens_open_port: int | None = None
    tokens_open_tls_cert: Path | None = None
    tokens_open_tls_key: Path | None = None
    tokens_dns_names: tuple[str, ...] = ()
    tokens_key_life: timedelta = DEFAULT_KEY_LIFE
    tokens_key_publication: timedelta = DEFAULT_KEY_PUBLICATION
    experimental_transaction_tokens: bool = False
    node_attestors: tuple[Choice, ...] = (Choice(name="join_token"),)
    drain: timedelta = field(default=timedelta(seconds=5))

    def __post_init__(self) -> None:
        for name in sorted(_PORTS):
            port = getattr(self, name)
            if port is not None and not 0 <= port < 65536:
                raise INVALID_SETTING.error(f"{name} {port} is not a port")
        if self.environment is not None and self.intent is None:
            raise INVALID_SETTING.error("environment chooses from an intent, and there is none")
        if self.ca_ttl < SHORTEST_CA:
            raise INVALID_SETTING.error(f"a ca_ttl under {SHORTEST_CA.seconds} s leaves no time to rotate")
        for name in ("default_x509_svid_ttl", "agent_ttl"):
            ttl = getattr(self, name)
            if ttl is not None and not timedelta(seconds=1) <= ttl <= self.ca_ttl:
                raise INVALID_SETTING.error(f"{name} must be between 1 s and ca_ttl")

        if self.audit_file_size < LEAST_AUDIT_FILE:
            raise INVALID_SETTING.error("audit_file_size is under 1MiB: one record may be that long")
        if self.return_grace < timedelta():
            raise INVALID_SETTING.error("return_grace must not be negative (0 turns returning off)")
        for identity in self.admin_ids:
            if not identity.path or identity.is_reserved:
                raise INVALID_SETTING.error(f"admin_ids: {identity} is no identity of a workload")
            if identity.trust_domain != self.trust_domain:
                raise INVALID_SETTING.error(
                    f"admin_ids: {identity} is of another trust domain, and the server's port believes only its own"
                )
        for name in ("ratelimit_attestation", "ratelimit_signing"):
            if not 0 <= getattr(self, name) <= MOST_PER_SECOND:
                raise INVALID_SETTING.error(f"{name} is not between 0 (off) and {MOST_PER_SECOND}")
        if not 1 <= self.template_identities <= MOST_IDENTITIES:
            raise INVALID_SETTING.error(f"template_identities is not between 1 and {MOST_IDENTITIES}")
        if self.default_jwt_svid_ttl < timedelta(seconds=1):
            raise INVALID_SETTING.error("default_jwt_svid_ttl must be at least 1 s")
        if self.jwt_issuer:
            _check_issuer(self.jwt_issuer)
        if self.oidc_port is not None:
            self._check_oidc()
        self._check_secrets()
        self._check_tokens()
        self._check_upstream()
        self._check_upstream_files()
        self._check_token()

    def _check_secrets(self) -> None:
        if self.secrets_seal is SealKind.OFF:
            told = (
                self.secrets_seal_file,
                self.secrets_advertised,
                self.secrets_dns_names,
                self.secrets_peers,
                self.secrets_token_port,
                self.secrets_token_tls_cert,
                self.secrets_token_tls_key,
            )
            if any(each not in (None, "", ()) for each in told):
                raise INVALID_SETTING.error("settings of secrets mean nothing without secrets_seal")
            return
        if not self.secrets_port:
            raise INVALID_SETTING.error("secrets_port must be a port: proxies are told of it")
        if self.secrets_seal_file is not None and self.secrets_seal is not SealKind.FILE:
            raise INVALID_SETTING.error("secrets_seal_file needs secrets_seal file")
        if bool(self.secrets_peers) is not (self.secrets_seal is SealKind.PEERS):
            raise INVALID_SETTING.error("secrets_seal peers and secrets_peers need each other")
        if self.secrets_seal is SealKind.PEERS and self.database is None:
            raise INVALID_SETTING.error("secrets_seal peers is for several servers, which need a database")
        if not _is_ip(self.secrets_address) or not _is_ip(self.secrets_advertised or self.secrets_address):
            raise INVALID_SETTING.error("secrets_address and secrets_advertised must be IP addresses")
        self._check_secrets_token()
        for name in self.secrets_dns_names:
            dns_name(name)
        if ip_address(self.secrets_address).is_unspecified and not self.secrets_advertised:
            raise INVALID_SETTING.error(
                f"secrets_address {self.secrets_address} is no address to reach anybody at",
                advice="Say in secrets_advertised where proxies reach the secret manager.",
            )

    def _check_tokens(self) -> None:
        if (found := self.token_service) is not None:
            if self.secrets_seal is SealKind.OFF:
                raise INVALID_SETTING.error(
                    "tokens needs secrets_seal: the keys that sign are kept by the secret manager"
                )
            found.check()
            return
        told = (
            self.tokens_issuer,
            self.tokens_advertised,
            self.tokens_open_port,
            self.tokens_open_tls_cert,
            self.tokens_open_tls_key,
            self.tokens_dns_names,
        )
        if any(each not in (None, "", ()) for each in told) or self.experimental_transaction_tokens:
            raise INVALID_SETTING.error("settings of tokens mean nothing without tokens")

    def _check_secrets_token(self) -> None:
        files = (self.secrets_token_tls_cert, self.secrets_token_tls_key)
        if (files[0] is None) != (files[1] is None):
            raise INVALID_SETTING.error("secrets_token_tls_cert and secrets_token_tls_key belong together")
        if self.secrets_token_port is None:
            if files[0] is not None:
                raise INVALID_SETTING.error("secrets_token_tls_cert and _key need secrets_token_port")
            return
        if self.secrets_token_port in (0, self.secrets_port):
            raise INVALID_SETTING.error(
                "secrets_token_port must be a port, and another one than secrets_port"
            )
        if self.disable_jwt_svids:
            raise INVALID_SETTING.error(
                "secrets_token_port is for clients with JWT-SVIDs, which are disabled"
            )

    def _check_upstream_files(self) -> None:
        files = (self.upstream_cert, self.upstream_key)
        if self.upstream not in (Upstream.DISK, Upstream.CEREMONY) and any((*files, self.upstream_roots)):
            raise INVALID_SETTING.error(
                "upstream_cert, upstream_key and upstream_roots need upstream disk or ceremony"
            )
        if self.upstream is Upstream.DISK and None in files:
            raise INVALID_SETTING.error("upstream disk needs upstream_cert and upstream_key")
        if self.upstream is Upstream.CEREMONY and (self.upstream_roots is None or any(files)):
            raise INVALID_SETTING.error("upstream ceremony needs upstream_roots, and no other files")
        if self.upstream is Upstream.CEREMONY and self.key_storage is KeyStorage.MEMORY:
            raise INVALID_SETTING.error(
                "a key in memory would not outlive the ceremony: use keys disk or pkcs11"
            )

    def _check_token(self) -> None:
        told = (self.pkcs11_module, self.pkcs11_token, self.pkcs11_pin_file, self.pkcs11_pin_fd)
        if self.secrets_seal is SealKind.PKCS11:
            if self.pkcs11_module is None or not self.pkcs11_token or self.pkcs11_pin_file is None:
                raise INVALID_SETTING.error(
                    "secrets_seal pkcs11 needs pkcs11_module, pkcs11_token and pkcs11_pin_file"
                )
        elif self.key_storage is not KeyStorage.PKCS11:
            if any(each not in (None, "") for each in told):
                raise INVALID_SETTING.error("pkcs11 settings mean nothing without key_storage pkcs11")
        elif self.pkcs11_module is None or not self.pkcs11_token:
            raise INVALID_SETTING.error("key_storage pkcs11 needs pkcs11_module and pkcs11_token")
        elif (self.pkcs11_pin_file is None) == (self.pkcs11_pin_fd is None):
            raise INVALID_SETTING.error("key_storage pkcs11 needs one of pkcs11_pin_file and pkcs11_pin_fd")

    def _check_upstream(self) -> None:
        given = bool(self.upstream_server_address), self.upstream_workload_api is not None
        if self.upstream is not Upstream.SPIRE:
            if any(given):
                raise INVALID_SETTING.error(
                    "upstream_server_address and upstream_workload_api need upstream spire"
                )
            return
        if not all(given):
            raise INVALID_SETTING.error(
                "upstream spire needs upstream_server_address and upstream_workload_api"
            )
        try:
            Address.parse(self.upstream_server_address)
        except ValueError as error:
            raise INVALID_SETTING.error(f"upstream_server_address: {error}") from error

    def _check_oidc(self) -> None:
        if not self.jwt_issuer or self.disable_jwt_svids:
            raise INVALID_SETTING.error("discovery pages (oidc) need a jwt_issuer, and JWT-SVIDs")
        if (self.oidc_tls_cert is None) != (self.oidc_tls_key is None):
            raise INVALID_SETTING.error("oidc_tls_cert and oidc_tls_key belong together")
        if self.oidc_tls_cert is None and not _is_loopback(self.oidc_address):
            raise INVALID_SETTING.error(
                f"discovery pages at {self.oidc_address} need oidc_tls_cert and oidc_tls_key",
                advice="Without TLS they are served on loopback only, behind a proxy that has the certificate.",
            )

    def _check_bundle_endpoint(self) -> None:
        files = (self.federation_bundle_endpoint_tls_cert, self.federation_bundle_endpoint_tls_key)
        web = self.federation_bundle_endpoint_profile is EndpointProfile.HTTPS_WEB
        if self.federation_bundle_endpoint_port is not None and web and None in files:
            raise INVALID_SETTING.error(
                "a bundle endpoint of the profile https_web needs federation_bundle_endpoint_tls_cert and _key",
                advice="Give the files of a certificate that web clients accept, or use the profile https_spiffe.",
            )
        if not web and files != (None, None):
            raise INVALID_SETTING.error(
                "a bundle endpoint of the profile https_spiffe shows the server's own SVID, and takes no certificate"
            )
        hint, longest = self.federation_bundle_endpoint_refresh_hint, notice(self.ca_ttl) / LEAST_HINTS_AHEAD
        if hint is not None and not timedelta(seconds=1) <= hint <= longest:
            raise INVALID_SETTING.error(
                f"federation_bundle_endpoint_refresh_hint must be between 1 s and {longest.total_seconds():.0f} s",
                advice="Partners must learn of a new authority before it signs; a longer hint needs a longer ca_ttl.",
            )
        if self.federation_shortest_refresh < timedelta(seconds=1):
            raise INVALID_SETTING.error("federation_shortest_refresh must be at least 1 s")
        if self.issuers_keys_kept < SHORTEST_KEPT:
            raise INVALID_SETTING.error("issuers_keys_kept must be at least 10 minutes")

    @property
    def bundle_endpoint_refresh_hint(self) -> timedelta:
        """How often other trust domains are asked to fetch our bundle."""
        usual = min(refresh_hint(self.ca_ttl), timedelta(minutes=5))
        return self.federation_bundle_endpoint_refresh_hint or usual

    @property
    def token_service(self) -> TokenSettings | None:
        """What is said of the token service, if there is one."""
        if not self.tokens:
            return None
        return TokenSettings(
            trust_domain=self.trust_domain,
            issuer=self.tokens_issuer or f"https://tokens.{self.trust_domain}",
            listen=Address(host=self.tokens_address, port=self.tokens_port),
            advertised=self.tokens_advertised,
            open_port=self.tokens_open_port,
            web=(self.tokens_open_tls_cert, self.tokens_open_tls_key),
            dns_names=self.tokens_dns_names,
            key_life=self.tokens_key_life,
            key_publication=self.tokens_key_publication,
            transactions=self.experimental_transaction_tokens,
            taken=frozenset(
                port for port in (self.secrets_port, self.secrets_token_port) if port is not None
            ),
        )

    @property
    def secrets_place(self) -> Address:
        """Where proxies reach the secret manager."""
        return Address(host=self.secrets_advertised or self.secrets_address, port=self.secrets_port)

    @property
    def secrets_token_place(self) -> Address | None:
        """Where clients with tokens reach the secret manager, if anywhere."""
        port = self.secrets_token_port
        return None if port is None else Address(host=self.secrets_address, port=port)

    @property
    def secrets_names(self) -> tuple[str, ...]:
        """The DNS names in the secret manager's certificate, for clients that look for one."""
        local = ("localhost",) if _is_loopback(self.secrets_address) else ()
        return tuple(dict.fromkeys((*self.secrets_dns_names, *local)))

    @property
    def secrets_key(self) -> Path:
        """The file that seals the secret manager."""
        return self.secrets_seal_file or self.data_dir / "secrets.kek"

    @property
    def kek(self) -> Path:
        """The file that holds the key-encryption key."""
        return self.kek_file or self.data_dir / "kek"


def _check_issuer(text: str) -> None:
    """OpenID Connect Discovery, section 2: https, a host, no query and no fragment."""
    url = urlsplit(text)
    plain = not (url.query or url.fragment or url.username or url.password)
    if url.scheme != "https" or not url.hostname or not plain or text.endswith("/") or not text.isascii():
        raise INVALID_SETTING.error(
            f"jwt_issuer {text!r} is not https://HOST[/PATH] without a slash at its end"
        )


def _is_ip(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def server_settings(
    given: Mapping[str, Any], config: Path | None, defaults: Mapping[str, Any] | None = None
) -> ServerSettings:
    """The settings from what was given (``None``: not given), else from a file, else from the defaults.

    Raises: VST9110, VST9100 (durations), VST1400 (trust domain), ``SeveralError`` for a file, with all of its places.
    """
    read = None if config is None else _read(config)
    if (from_git := from_options(given)) is not None:
        if given.get("intent") is not None:
            raise INVALID_SETTING.error("intent is either a directory or from Git")
        given = {**given, "intent": from_git}
    said = dict(defaults or {}) | {
        name: value for name, value in given.items() if value is not None and name not in OPTIONS
    }
    typed = {name: _typed(name, value) for name, value in said.items()}
    for name, value in (read.values if read else {}).items():
        if given.get(name) is None:
            typed[name] = value
    for needed in ("trust_domain", "data_dir", "socket_path"):
        if needed not in typed:
            raise INVALID_SETTING.error(f"{needed} is not set")
    try:
        return ServerSettings(**typed)
    except VestibuleError as error:
        if read is None:
            raise
        raise read.located(error) from error


def _read(path: Path) -> ReadFile:
    from vestibule.app.configuration.files import server_configuration

    return server_configuration().read(path)


_PATHS: Final = frozenset(
    {
        *(
            "data_dir",
            "socket_path",
            "kek_file",
            "secrets_seal_file",
            "intent",
            "oidc_tls_cert",
            "oidc_tls_key",
        ),
        *("pkcs11_module", "pkcs11_pin_file", "upstream_workload_api"),
        *("federation_bundle_endpoint_tls_cert", "federation_bundle_endpoint_tls_key", "federation_web_ca"),
        *("secrets_token_tls_cert", "secrets_token_tls_key", "issuers_web_ca"),
        *("tokens_open_tls_cert", "tokens_open_tls_key"),
        *("upstream_cert", "upstream_key", "upstream_roots", "audit_sink_token_file", "audit_sink_ca"),
    }
)
_NUMBERS: Final = frozenset(
    {"pkcs11_pin_fd", "template_identities", "ratelimit_attestation", "ratelimit_signing"}
)
_DURATIONS: Final = frozenset(
    {
        *(
            "ca_ttl",
            "default_x509_svid_ttl",
            "default_jwt_svid_ttl",
            "agent_ttl",
            "return_grace",
            "drain",
            "prune_agents_expired_for",
        ),
        *("federation_bundle_endpoint_refresh_hint", "federation_shortest_refresh"),
        *("tokens_key_life", "tokens_key_publication", "issuers_keys_kept"),
    }
)
_LISTS: Final = frozenset(
    {
        *("admin_ids", "allowed_jwt_claims", "audit_sinks"),
        *("secrets_dns_names", "secrets_peers", "tokens_dns_names"),
    }
)
_SWITCHES: Final = frozenset(
    {
        *("disable_jwt_svids", "experimental_wit_svids", "federation_permit_local", "prune_tofu_agents"),
        *("tokens", "experimental_transaction_tokens", "issuers_permit_local"),
    }
)
_PORTS: Final = frozenset(
    {
        *("bind_port", "health_port", "oidc_port", "federation_bundle_endpoint_port"),
        *("secrets_port", "secrets_token_port", "tokens_port", "tokens_open_port"),
    }
)


def _typed(name: str, value: Any) -> Any:
    """The value of a setting as its field wants it, from the command line's text."""
    if name == "trust_domain":
        return value if isinstance(value, TrustDomain) else TrustDomain.parse(str(value))
    if name == "database":
        return value if isinstance(value, SecretReference) else SecretReference.parse(str(value))
    if name == "node_attestors":
        return choices_of(value)
    if name in _LISTS:
        return _texts(name, value)
    if isinstance(value, FromGit):
        return value
    if name in _PATHS:
        return Path(str(value)).expanduser().absolute()
    if name in _DURATIONS:
        return value if isinstance(value, timedelta) else parse_duration(str(value))
    if name in _PORTS:
        return _port(name, value)
    if name in _NUMBERS:
        try:
            return int(str(value))
        except ValueError as error:
            raise INVALID_SETTING.error(f"{name} {value!r} is not a number") from error
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise INVALID_SETTING.error(f"{name} {value!r} is neither true nor false")
        return value
    if name == "upstream":
        try:
            return Upstream(value)
        except ValueError as error:
            known = ", ".join(each.value for each in Upstream)
            raise INVALID_SETTING.error(f"upstream {value!r} is none of: {known}") from error
    if name == "federation_bundle_endpoint_profile":
        try:
            return EndpointProfile(value.value if isinstance(value, Enum) else value)
        except ValueError as error:
            raise INVALID_SETTING.error(f"{name} {value!r} is neither https_spiffe nor https_web") from error
    if name == "secrets_seal":
        try:
            return SealKind(value)
        except ValueError as error:
            known = ", ".join(each.value for each in SealKind)
            raise INVALID_SETTING.error(f"secrets_seal {value!r} is none of: {known}") from error
    if name == "key_storage":
        try:
            return KeyStorage(value)
        except ValueError as error:
            raise INVALID_SETTING.error(
                f"key_storage {value!r} is none of disk, memory and pkcs11"
            ) from error
    return str(value)


def _texts(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise INVALID_SETTING.error(f"{name} is not a list")
    if name == "admin_ids":
        return tuple(each if isinstance(each, SpiffeId) else SpiffeId.parse(str(each)) for each in value)
    if name == "secrets_peers":
        return tuple(each if isinstance(each, Address) else _address(str(each)) for each in value)
    return tuple(str(each) for each in value)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise INVALID_SETTING.error(f"{text!r} is not HOST:PORT") from error


def _port(name: str, value: Any) -> int | None:
    if value == "off" and name not in ("bind_port", "secrets_port", "tokens_port"):
        return None
    try:
        return int(str(value))
    except ValueError as error:
        raise INVALID_SETTING.error(f"{name} {value!r} is not a port") from error
