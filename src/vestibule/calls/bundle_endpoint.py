"""Fetching other trust domains' bundles (SPIFFE_Federation.md, section 5), of both profiles.

The URL was said by our operator; everything that comes back is said by strangers.  So every fetch is bounded in time
and size, goes only to addresses that were judged, shows no certificate, sends no credentials, and believes nothing
before the endpoint has proved who it is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin

from vestibule.calls.codes import BUNDLE_ENDPOINT_ANSWER, BUNDLE_ENDPOINT_REDIRECT, BUNDLE_ENDPOINT_REFUSED
from vestibule.calls.http import Answer, HttpServer, IpAddress, is_foreign_host, plain
from vestibule.calls.http.codes import HTTP_UNREACHABLE
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import trust
from vestibule.pki.bundles import from_jwks
from vestibule.pki.revocation import verify_unrevoked
from vestibule.records import FederationRelationship
from vestibule.spiffe import Revocations, SpiffeId, TrustBundle

FETCH_SECONDS: Final = 20.0
"""For one fetch with all its redirects."""
EXCHANGE_SECONDS: Final = 10.0
MAX_BYTES: Final = 1024 * 1024
"""Of an answer: some two hundred times the usual bundle."""
MAX_REDIRECTS: Final = 3
HTTPS_PORT: Final = 443

WEB_ADVICE: Final = (
    "The endpoint's certificate has to be one that web clients accept, for the host in the URL.  If it is an SVID, the "
    "relationship's profile is https_spiffe, with the endpoint's SPIFFE ID."
)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_JSON: Final = ("application/json", "application/jwk-set+json")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEndpoints:
    """Asks endpoints.

    ``parse`` checks a URL, or raises (``identity.relationships.endpoint_url``); ``web`` gives the context that knows
    web servers' authorities.  With ``permit_local`` also this machine and the link may be asked, as in a laboratory.
    """

    clock: Clock
    parse: Callable[[str], SplitResult]
    web: Callable[[], ssl.SSLContext]
    permit_local: bool = False
    revocations: Callable[[], Revocations] = Revocations
    seconds: float = FETCH_SECONDS

    async def fetch(self, relationship: FederationRelationship, trust: TrustBundle | None) -> TrustBundle:
        """The bundle that the endpoint gives.

        1. GET the configured URL, each time anew: where it redirected to last time is not remembered (5.2.1.4).
        2. The endpoint proves who it is: by a web server's certificate, or (``https_spiffe``) by an SVID that is valid
           under ``trust`` alone and has exactly the configured ID.
        3. A redirect is followed a few times, to valid URLs, under the same rules, and never from the open network
           into a private one.
        4. The answer is 200, JSON, of a limited size, and a bundle.

        Raises: VST2340 (not there), VST2341 (not HTTP, too large), VST2342 (address), VST2350 (step 2), VST2352 (3),
        VST2351 (4), VST1009 (no bundle).
        """
        tls = self._tls(relationship, trust)
        try:
            async with asyncio.timeout(self.seconds):
                answer = await self._ask(relationship.bundle_endpoint_url, tls)
        except TimeoutError as error:
            raise HTTP_UNREACHABLE.error(
                f"{relationship.bundle_endpoint_url} does not answer within {self.seconds:g} s"
            ) from error
        return from_jwks(relationship.trust_domain, _document(answer, relationship.bundle_endpoint_url))

    async def _ask(self, url: str, tls: _Tls) -> Answer:
        open_network = False
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._parsed(url)
            route = _Route(permit_local=self.permit_local, redirected_from_open=open_network)
            answer = await _exchange(parts, tls, route)  # 1
            open_network |= route.is_open
            if answer.status not in _REDIRECTS:
                return answer
            url = urljoin(url, answer.headers.get("location", ""))  # 3
            if not answer.headers.get("location"):
                raise BUNDLE_ENDPOINT_REDIRECT.error(f"{parts.hostname} redirects to nowhere")
        raise BUNDLE_ENDPOINT_REDIRECT.error(
            f"more than {MAX_REDIRECTS} redirects, the last one to {url[:200]}"
        )

    def _parsed(self, url: str) -> SplitResult:
        try:
            return self.parse(url)
        except VestibuleError as error:
            raise BUNDLE_ENDPOINT_REDIRECT.error(f"not followed to {url[:200]!r}: {error.message}") from error

    def _tls(self, relationship: FederationRelationship, trust: TrustBundle | None) -> _Tls:
        expected = relationship.endpoint_spiffe_id
        if expected is None:
            return _Tls(context=self.web, verify=None)
        if trust is None:
            raise BUNDLE_ENDPOINT_REFUSED.error(f"there is no bundle to know {expected} by")

        def verify(connection: ssl.SSLObject) -> None:
            _verify_spiffe(connection, expected, trust, self.clock, self.revocations())

        return _Tls(context=lambda: _spiffe_context(trust), verify=verify)


@dataclass(frozen=True, slots=True)
class _Tls:
    context: Callable[[], ssl.SSLContext]
    verify: Callable[[ssl.SSLObject], None] | None


class _Route:
    """Judges the addresses of one exchange, and remembers whether it went over the open network."""

    def __init__(self, *, permit_local: bool, redirected_from_open: bool) -> None:
        self._permit_local = permit_local
        self._redirected_from_open = redirected_from_open
        self.is_open = False

    def __call__(self, address: IpAddress) -> bool:
        address = plain(address)
        self.is_open |= address.is_global
        if self._redirected_from_open and not address.is_global:
            return False
        return self._permit_local or is_foreign_host(address)


async def _exchange(url: SplitResult, tls: _Tls, route: _Route) -> Answer:
    assert url.hostname is not None
    server = HttpServer(
        host=url.hostname,
        port=url.port or HTTPS_PORT,
        tls=tls.context,
        permit=route,
        verify=tls.verify,
        limit=MAX_BYTES,
        seconds=EXCHANGE_SECONDS,
    )
    try:
        return await server("GET", _target(url), headers=_headers(url))
    except VestibuleError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):  # 2, as far as the TLS stack sees it
            raise BUNDLE_ENDPOINT_REFUSED.error(
                f"{url.netloc} is not trusted: {error.__cause__.verify_message}",
                advice=None if tls.verify else WEB_ADVICE,
            ) from error
        raise


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _headers(url: SplitResult) -> dict[str, str]:
    return {"Host": url.netloc, "Accept": "application/json", "User-Agent": "vestibule"}


def _document(answer: Answer, url: str) -> bytes:
    if answer.status != 200:  # 4
        raise BUNDLE_ENDPOINT_ANSWER.error(f"{url} answers with the status {answer.status}")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    # The standard only recommends the type; what names another one is a page of something else.
    if kind and kind not in _JSON and kind not in ("text/plain", "application/octet-stream"):
        raise BUNDLE_ENDPOINT_ANSWER.error(f"{url} answers with {kind[:80]!r}, which is not JSON")
    return answer.body


def _spiffe_context(bundle: TrustBundle) -> ssl.SSLContext:
    """For an endpoint with an SVID: host names play no part, and no certificate of ours is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # A bundle may hold an authority without the one that signed it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    trust(context, bundle.x509_authorities)
    return context


def _verify_spiffe(
    connection: ssl.SSLObject, expected: SpiffeId, trust: TrustBundle, clock: Clock, revocations: Revocations
) -> None:
    """The peer's whole chain holds against one bundle alone, and its ID is the configured one (5.2.2.4).

    Raises: VST2350.
    """
    try:
        found = verify_unrevoked(peer_chain(connection), trust, clock.now(), revocations)
    except VestibuleError as error:
        raise BUNDLE_ENDPOINT_REFUSED.error(
            f"the endpoint does not prove {expected}: {error.message}"
        ) from error
    if found != expected:
        raise BUNDLE_ENDPOINT_REFUSED.error(f"the endpoint is {found}, not {expected}")
