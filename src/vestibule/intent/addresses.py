"""Hosts, addresses and files, as people write them."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from vestibule.intent import codes
from vestibule.intent.outside import HostPort
from vestibule.intent.words import shown

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_LOWER: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
HOST: Final = rf"{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?"
DNS_NAME: Final = rf"{_LOWER}(\.{_LOWER})*"
HOST_PATTERN: Final = rf"(\*|(\*\.)?{DNS_NAME})"
IP: Final = r"[0-9a-fA-F.:]{2,39}"
HOST_AND_PORT: Final = rf"({DNS_NAME}|\[[0-9a-fA-F:.]{{2,39}}\]):[0-9]{{1,5}}"
CERTIFICATES: Final = r"certs/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.pem"
_KEY_URL: Final = (
    r"(https://[A-Za-z0-9.-]{1,253}|http://(localhost|127\.0\.0\.1|\[::1\]))(:[0-9]{1,5})?/[!\"$-~]{0,400}"
)
KEY_SET: Final = rf"keys/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}\.json|spiffe|tokens|{_KEY_URL}"
OF_SVIDS: Final = "spiffe"
OF_TOKENS: Final = "tokens"
FILE: Final = r"/[^\s]*[^/\s]"


def host(text: str) -> str:
    """A host name, as a Host header has it, with a port or without.  Raises: VST0025."""
    name, _, port = text.partition(":")
    if re.fullmatch(HOST, text) and len(name) <= 253 and (not port or 0 < int(port) <= 65535):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a host", advice="Write a DNS name, such as api.example.com."
    )


def dns_name(text: str) -> str:
    """A DNS name in lower case, which is no IP address.  Raises: VST0025."""
    if re.fullmatch(DNS_NAME, text) and len(text) <= 253 and not _is_ip(text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a DNS name in lower case", advice="Write it such as api.example.com."
    )


def host_pattern(text: str) -> str:
    """A DNS name, ``*.`` and a DNS name, or ``*`` for every host.  Raises: VST0025."""
    if text != "*":
        dns_name(text.removeprefix("*."))
    return text


def ip_address(text: str) -> str:
    """An address of this or another host.  Raises: VST0025."""
    if _is_ip(text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not an IP address", advice="Write one such as 0.0.0.0, 10.0.0.7 or ::1."
    )


def host_and_port(text: str) -> HostPort:
    """A DNS name or an IP address (of version 6 in brackets), and a port.  Raises: VST0025."""
    host, _, port = text.rpartition(":")
    plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    named = re.fullmatch(DNS_NAME, host) and len(host) <= 253 and not re.fullmatch(r"[0-9.]+", host)
    numbered = _is_ip(plain) and (":" in plain) == (plain != host)
    if re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= 65535 and (named or numbered):
        return HostPort(host=plain, port=int(port))
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a host in lower case and a port",
        advice="Write api.example.com:443, 10.0.0.7:443 or [::1]:443.",
    )


def ip_and_port(text: str) -> HostPort:
    """An IP address and a port.  Raises: VST0025."""
    found = host_and_port(text)
    if _is_ip(found.host):
        return found
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not an IP address and a port", advice="Write 10.0.0.7:443 or [::1]:443."
    )


def certificates(text: str) -> str:
    """The name of a file of the intent that holds certificates.  Raises: VST0025."""
    if re.fullmatch(CERTIFICATES, text):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a file of the intent", advice="Put it in certs/ and write certs/NAME.pem."
    )


def key_set(text: str) -> str:
    """Where a JWK set is: a file of the intent, an address, ``OF_SVIDS`` or ``OF_TOKENS``.  Raises: VST0025.

    An address is of HTTPS, or of this machine; it has no fragment and names no user.
    """
    if re.fullmatch(KEY_SET, text):
        return text
    if "://" in text:
        raise codes.MALFORMED_VALUE.error(
            f"{shown(text)} is no address that keys are fetched from",
            advice="Write what the issuer calls its jwks_uri: https://HOST/PATH; plain http only of this machine.",
        )
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not a file of the intent",
        advice="Put it in keys/ and write keys/NAME.json, or the address that answers it; or write tokens, for the "
        "mesh's own token service, or spiffe, for its JWT-SVIDs.",
    )


def file(text: str) -> str:
    """The absolute path of a file on the host where a proxy runs.  Raises: VST0025."""
    if re.fullmatch(FILE, text) and text.isprintable() and "/../" not in text + "/" and "//" not in text:
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{shown(text)} is not the absolute path of a file", advice="Write it such as /etc/edge/tls.crt."
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
