"""A server's bundle endpoint, and what is measured of its federation."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from vestibule.app.server_mesh import Background
from vestibule.app.server_services import Services
from vestibule.app.server_settings import ServerSettings
from vestibule.doors.bundle_http import BundleEndpoint, BundlePage
from vestibule.doors.certificate_files import CertificateFiles
from vestibule.net.tls import EndpointTls
from vestibule.records import EndpointProfile
from vestibule.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What serves our bundle to other trust domains, in one of the two profiles."""

    page: BundlePage
    tls: EndpointTls | CertificateFiles
    services: Services

    @classmethod
    def of(cls, settings: ServerSettings, services: Services) -> Endpoint | None:
        """``None`` without an endpoint.  Raises: VST2202 for certificate files that cannot be used."""
        if settings.federation_bundle_endpoint_port is None:
            return None
        hint = settings.bundle_endpoint_refresh_hint
        page = BundlePage(services.authorities.bundle, int(hint.total_seconds()))
        tls: EndpointTls | CertificateFiles
        if settings.federation_bundle_endpoint_profile is EndpointProfile.HTTPS_SPIFFE:
            tls = EndpointTls(services.identity.svid)
        else:
            certificate = settings.federation_bundle_endpoint_tls_cert
            key = settings.federation_bundle_endpoint_tls_key
            assert certificate is not None
            assert key is not None
            tls = CertificateFiles(certificate, key)
        return cls(page, tls, services)

    @property
    def context(self) -> ssl.SSLContext:
        """For the listening socket."""
        return self.tls.context

    def background(self, sock: socket.socket) -> Iterator[tuple[str, Background]]:
        """What has to run."""
        yield "bundle-endpoint", BundleEndpoint(self.page, sock, self.context).run
        if isinstance(self.tls, EndpointTls):
            yield "bundle-endpoint-tls", self._follow_identity
        else:
            yield "bundle-endpoint-tls", self.tls.run

    async def _follow_identity(self) -> None:
        identity = self.services.identity
        while True:
            seen = identity.revision
            assert isinstance(self.tls, EndpointTls)
            self.tls.update(identity.svid)
            await identity.changed(seen)


def federation_metrics(metrics: Metrics, services: Services) -> None:
    """How old others' bundles are, and whether fetching them goes well, by trust domain."""
    federation = services.federation

    def fetched() -> dict[str, float]:
        return {
            str(domain): progress.fetched_at.timestamp()
            for domain, progress in federation.all_progress().items()
            if progress.fetched_at is not None
        }

    def failures() -> dict[str, float]:
        return {str(domain): float(each.failures) for domain, each in federation.all_progress().items()}

    metrics.gauges(
        "federated_bundle_fetched_timestamp_seconds",
        "When the bundle of a federated trust domain was last fetched from its endpoint.",
        "trust_domain",
        fetched,
    )
    metrics.gauges(
        "federated_bundle_fetch_failures",
        "Attempts to fetch the bundle of a federated trust domain that failed in a row.",
        "trust_domain",
        failures,
    )
