"""Trust domains and SPIFFE IDs (SPIFFE-ID.md, sections 2.1 to 2.4).

Holding a value of these types means that it is valid: they are made by ``parse`` and never changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.spiffe.codes import MALFORMED_SPIFFE_ID

SCHEME: Final = "spiffe://"
MAX_ID_BYTES: Final = 2048
MAX_TRUST_DOMAIN_BYTES: Final = 255
RESERVED_SEGMENT: Final = "spire"

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def _refuse(text: str, why: str) -> VestibuleError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return MALFORMED_SPIFFE_ID.error(f"{shown!r} {why}")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, such as ``example.org``."""

    name: str

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """Read ``example.org`` or ``spiffe://example.org``; the result is in lower case (section 2.4).

        Raises: VST1400.
        """
        name = text[len(SCHEME) :] if text[: len(SCHEME)].lower() == SCHEME else text
        name = name.lower()
        if not name or len(name) > MAX_TRUST_DOMAIN_BYTES:
            raise _refuse(text, f"is not a trust domain: it needs 1 to {MAX_TRUST_DOMAIN_BYTES} characters")
        # In lower case, a Kelvin sign is an ordinary k: what was written counts, too.
        if not text.isascii() or not _TRUST_DOMAIN.fullmatch(name):
            raise _refuse(text, "is not a trust domain: only a-z, 0-9, '.', '_' and '-' are allowed")
        return cls(name)

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID of the trust domain itself, which has no path."""
        return SpiffeId(self, "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path, which is empty or starts with a slash."""

    trust_domain: TrustDomain
    path: str

    def __hash__(self) -> int:
        # IDs are looked up all the time, and those of one path in several trust domains are few.
        return hash(self.path)

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read ``spiffe://example.org/ns/prod/sa/web``.

        Scheme and trust domain are case-insensitive and come out in lower case; the path keeps its case.
        Raises: VST1400.
        """
        if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
            raise _refuse(text, f"is longer than {MAX_ID_BYTES} bytes")
        if text[: len(SCHEME)].lower() != SCHEME:
            raise _refuse(text, "does not start with spiffe://")
        authority, slash, path = text[len(SCHEME) :].partition("/")
        return cls.of(TrustDomain.parse(authority), slash + path)

    @classmethod
    def of(cls, trust_domain: TrustDomain, path: str) -> SpiffeId:
        """Join a trust domain and a path such as ``/ns/prod/sa/web`` (or the empty path).  Raises: VST1400."""
        whole = f"{SCHEME}{trust_domain}{path}"
        if path and not path.startswith("/"):
            raise _refuse(whole, "has a path that does not start with a slash")
        for segment in path.split("/")[1:]:
            if not segment:
                raise _refuse(whole, "has an empty path segment or a trailing slash")
            if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
                raise _refuse(whole, f"has a path segment {segment!r} that is not allowed")
        if len(whole) > MAX_ID_BYTES:
            raise _refuse(whole, f"is longer than {MAX_ID_BYTES} bytes")
        return cls(trust_domain, path)

    @property
    def is_reserved(self) -> bool:
        """Whether the path lies under ``/spire/``, which is kept for servers and agents."""
        return self.path == f"/{RESERVED_SEGMENT}" or self.path.startswith(f"/{RESERVED_SEGMENT}/")

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"
