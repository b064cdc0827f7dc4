"""Fetching the key sets that outside issuers of tokens publish (RFC 7517; the ``jwks_uri`` of RFC 8414).

The URL stands in the reviewed intent; what comes back is said by strangers.  So every fetch is bounded in time and
size, goes only to the very host that was named, at addresses that were judged, sends no credentials, and follows
nobody elsewhere.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import SplitResult, urlsplit

from vestibule.calls.codes import KEY_SET_ANSWER, KEY_SET_PLACE
from vestibule.calls.http import Answer, HttpServer, IpAddress, is_foreign_host, plain
from vestibule.calls.http.codes import HTTP_UNREACHABLE
from vestibule.errors import VestibuleError

FETCH_SECONDS: Final = 10.0
MAX_BYTES: Final = 256 * 1024
"""Of an answer: some fifty times the usual set."""
MAX_URL: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}
_KINDS: Final = ("", "application/json", "application/jwk-set+json", "text/plain", "application/octet-stream")
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})")
_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """``document`` is None where it is the one that ``etag`` was given of.  ``fresh`` is how long it may be kept."""

    document: bytes | None = field(repr=False)
    etag: str = ""
    fresh: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySetEndpoints:
    """Asks issuers.  ``web`` gives the context that knows web servers' authorities.

    With ``permit_local`` also this machine and the link may be asked, and this machine in plain text: for trying out,
    and for what stands beside the server.
    """

    web: Callable[[], ssl.SSLContext]
    permit_local: bool = False
    seconds: float = FETCH_SECONDS

    async def fetch(self, url: str, etag: str = "") -> Fetched:
        """What the URL gives now.

        1. The URL is one that may be asked.
        2. Every address of its host may be, too; in plain text only this machine.
        3. The answer is 200 and JSON, or 304 to whoever has it already: nobody is followed elsewhere.

        Raises: VST6140 (step 1), VST2340 (not there, not trusted), VST2341 (not HTTP, too large), VST2342 (2),
        VST6141 (3).
        """
        place = self._place(url)  # 1
        is_plain = place.scheme == "http"
        assert place.hostname is not None
        server = HttpServer(
            host=place.hostname,
            port=place.port or _PORTS[place.scheme],
            tls=None if is_plain else self.web,
            permit=self._permit_plain if is_plain else self._permit,  # 2
            limit=MAX_BYTES,
            seconds=self.seconds,
        )
        answer = await _ask(server, place, etag)
        return _fetched(answer, url, etag)  # 3

    def _place(self, url: str) -> SplitResult:
        try:
            place = urlsplit(url)
            usable = bool(place.hostname) and place.port != 0
        except ValueError:
            raise KEY_SET_PLACE.error(f"{url[:200]!r} is no URL") from None
        odd = not url.isascii() or any(each <= " " or each == "\x7f" for each in url)
        if not usable or odd or "@" in place.netloc or place.fragment or len(url) > MAX_URL:
            raise KEY_SET_PLACE.error(f"{url[:200]!r} is no URL of a key set")
        if place.scheme != "https" and not (place.scheme == "http" and self.permit_local):
            raise KEY_SET_PLACE.error(f"{url} is not asked in plain text")
        return place

    def _permit(self, address: IpAddress) -> bool:
        return self.permit_local or is_foreign_host(address)

    def _permit_plain(self, address: IpAddress) -> bool:
        return plain(address).is_loopback


async def _ask(server: HttpServer, place: SplitResult, etag: str) -> Answer:
    headers = {"Host": place.netloc, "Accept": "application/json", "User-Agent": "vestibule"}
    if etag:
        headers["If-None-Match"] = etag
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    try:
        return await server("GET", target, headers=headers)
    except VestibuleError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            why = error.__cause__.verify_message
            raise HTTP_UNREACHABLE.error(f"{place.netloc} is not trusted: {why}") from error
        raise


def _fetched(answer: Answer, url: str, etag: str) -> Fetched:
    fresh = _freshness(answer.headers.get("cache-control", ""))
    if answer.status == 304 and etag:
        return Fetched(document=None, etag=etag, fresh=fresh)
    if answer.status != 200:
        raise KEY_SET_ANSWER.error(f"{url} answers with the status {answer.status}")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _KINDS:
        raise KEY_SET_ANSWER.error(f"{url} answers with {kind[:80]!r}, which is not JSON")
    given = answer.headers.get("etag", "")
    return Fetched(document=answer.body, etag=given if _ETAG.fullmatch(given) else "", fresh=fresh)


def _freshness(said: str) -> timedelta | None:
    """RFC 9111, section 5.2.2.1."""
    found = _MAX_AGE.search(said.lower())
    return timedelta(seconds=int(found[1])) if found else None
