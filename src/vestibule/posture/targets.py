"""Targets as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, ip_address
from typing import Final

from vestibule.errors import VestibuleError, Where
from vestibule.posture.codes import MALFORMED_TARGET
from vestibule.posture.facts import Target, printable

MOST: Final = 10_000
"""Targets of one scan."""
_SCHEME: Final = re.compile(r"(?:https?|grpcs?|tls)://([^/?#]*)[/?#]?.*")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_LONGEST_NAME: Final = 253


def parse_target(text: str) -> Target:
    """``HOST:PORT``, or a URL that has both.  Raises: VST2470."""
    word = text.strip()
    if url := _SCHEME.fullmatch(word):
        word = url[1]
    host, colon, port = word.rpartition(":")
    if not colon or not host:
        raise _malformed(text, "it has no port")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise _malformed(text, f"{printable(port, 20)!r} is no port")
    return Target(host=_host(text, host), port=int(port))


def parse_list(lines: Iterable[str], file: str) -> Iterator[Target]:
    """One target per line; ``#`` starts a comment.  Raises: VST2470, with the line."""
    for number, line in enumerate(lines, start=1):
        if word := line.partition("#")[0].strip():
            try:
                yield parse_target(word)
            except VestibuleError as error:
                error.where = Where(file=file, line=number)
                raise


def distinct(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Each once, in the order in which they were first named.  Raises: VST2470 for none, or too many."""
    found = tuple(dict.fromkeys(targets))
    if not found:
        raise MALFORMED_TARGET.error("there is nothing to scan")
    if len(found) > MOST:
        raise MALFORMED_TARGET.error(
            f"{len(found)} targets are more than {MOST}", advice="Scan them in parts."
        )
    return found


def is_address(host: str) -> bool:
    """Whether it is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise _malformed(text, "what stands in brackets is no IPv6 address") from None
    if ":" in host:
        raise _malformed(text, "an IPv6 address stands in brackets")
    if is_address(host):
        return host
    try:
        ascii_ = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise _malformed(text, "the host is no name of the Domain Name System") from None
    name = ascii_.lower().removesuffix(".")
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise _malformed(text, "the host is no name of the Domain Name System")
    return name


def _malformed(text: str, why: str) -> VestibuleError:
    return MALFORMED_TARGET.error(f"{printable(text, 80)!r} cannot be scanned: {why}")
