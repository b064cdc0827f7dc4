"""Reading and writing the names in a certificate or request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from vestibule.errors import VestibuleError
from vestibule.pki.codes import INVALID_REQUEST
from vestibule.spiffe import SpiffeId

MAX_DNS_NAME: Final = 253
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def dns_name(text: str) -> str:
    """``text`` in lower case, if it is a DNS name, perhaps with a leading ``*.``.  Raises: VST1011."""
    labels = text.removeprefix("*.").split(".")
    if len(text) > MAX_DNS_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise INVALID_REQUEST.error(f"{text[:80]!r} is not a DNS name")
    return text.lower()


def unique_dns_names(texts: Iterable[str]) -> tuple[str, ...]:
    """DNS names in lower case, each once, the first of all still first.  Raises: VST1011."""
    return tuple(dict.fromkeys(map(dns_name, texts)))


def alternative_names(
    spiffe_id: SpiffeId | None, dns_names: tuple[str, ...] = ()
) -> x509.SubjectAlternativeName:
    """The SAN extension: the SPIFFE ID as the only URI, then the DNS names.  Raises: VST1011."""
    uris = [] if spiffe_id is None else [x509.UniformResourceIdentifier(str(spiffe_id))]
    return x509.SubjectAlternativeName([*uris, *(x509.DNSName(name) for name in unique_dns_names(dns_names))])


class NamesError(ValueError):
    """The names in a certificate or request are not those of an SVID; the caller knows which code fits."""


def read_names(extensions: x509.Extensions) -> tuple[SpiffeId | None, tuple[str, ...]]:
    """The SPIFFE ID and the DNS names of the SAN; other kinds of names are passed over.

    Raises: NamesError for more than one URI (X509-SVID.md section 2) or one that is not a SPIFFE ID.
    """
    if not len(extensions):  # as in most requests; asking would raise, which takes as long as reading them
        return None, ()
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None, ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise NamesError(f"there are {len(uris)} URI names where one is allowed")
    try:
        spiffe_id = SpiffeId.parse(uris[0]) if uris else None
    except VestibuleError as error:
        raise NamesError(error.message) from error
    return spiffe_id, tuple(names.get_values_for_type(x509.DNSName))
