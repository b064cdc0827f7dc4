"""What a real Envoy does with a revoked certificate: the runbook for emergencies rests on these facts.

With the SPIFFE validator, a certificate revocation list changes nothing, neither for a leaf nor for a stolen
intermediate; taking the root out of the trust bundle cuts, for new handshakes, within seconds.  With Envoy's default
validator the same lists refuse both.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.component.server_lab import short_directory
from tests.e2e.mesh_lab import free_address

from vestibule.net.tls import load_svid
from vestibule.pki import profiles
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.crls import RevokedSerial, crl_builder
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.pki.revocation import fingerprint, key_fingerprint, verify_unrevoked
from vestibule.proxy.binary import find_envoy
from vestibule.records import Address
from vestibule.spiffe import Revocation, Revocations, RevokedAuthority, SpiffeId, X509Svid
from vestibule.testing import TestAuthority

PATIENCE = 60.0
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass
class Pki:
    """An offline root, an intermediate below it, and a leaf below that."""

    root: TestAuthority
    intermediate: x509.Certificate
    leaf: X509Svid
    crls: list[bytes]
    """PEM: the root's, which names the intermediate, and the intermediate's, which names the leaf."""

    @classmethod
    def made(cls) -> Pki:
        root, key, now = TestAuthority("example.org"), generate_key(), datetime.now(UTC)
        valid = profiles.lifetime(now, timedelta(hours=12), root.issuer.not_after)
        intermediate = profiles.intermediate_ca(key.public_key(), valid, root.issuer).sign(root.key, SHA256())
        der = intermediate.public_bytes(Encoding.DER)
        own = generate_key()
        issuer = profiles.Issuer.of(der, root.trust_domain)
        builder = profiles.svid(WEB, own.public_key(), profiles.lifetime(now, timedelta(hours=1)), issuer)
        leaf = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
        facts = leaf_facts(leaf)
        svid = X509Svid(
            spiffe_id=WEB,
            chain=(leaf, der),
            key=key_to_pkcs8(own),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )
        later = now + timedelta(hours=1)
        top = x509.load_der_x509_certificate(root.certificate)
        named = [RevokedSerial(serial=intermediate.serial_number, at=now, reason="cACompromise")]
        lists = [crl_builder(top, named, number=1, now=now, next_update=later).sign(root.key, SHA256())]
        named = [RevokedSerial(serial=svid.serial, at=now, reason="keyCompromise")]
        lists.append(
            crl_builder(intermediate, named, number=1, now=now, next_update=later).sign(key, SHA256())
        )
        return cls(root, intermediate, svid, [each.public_bytes(Encoding.PEM) for each in lists])


@dataclass
class Envoy:
    """A listener that wants client certificates; its validation context is a file that it watches."""

    directory: Path
    address: Address

    def trust(self, authorities: Sequence[bytes], crls: Sequence[bytes] = (), *, spiffe: bool) -> None:
        context: dict[str, Any] = {"crl": _inline(b"".join(crls))} if crls else {}
        pem = b"".join(map(_pem, authorities))
        if spiffe:
            config = {
                "@type": f"{TYPES}.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                "trust_domains": [{"name": "example.org", "trust_bundle": _inline(pem)}],
            }
            context["custom_validator_config"] = {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": config,
            }
        else:
            context["trusted_ca"] = _inline(pem)
        secret = {
            "@type": f"{TYPES}.transport_sockets.tls.v3.Secret",
            "name": "trust",
            "validation_context": context,
        }
        new = self.directory / "trust.new"
        new.write_text(json.dumps({"resources": [secret]}), encoding="utf-8")
        new.rename(self.directory / "trust.json")

    async def accepts(self, svid: X509Svid) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        load_svid(context, svid)
        try:
            reader, writer = await asyncio.open_connection(self.address.host, self.address.port, ssl=context)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                return (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 204")
            finally:
                writer.close()
        except OSError:
            return False

    async def until(self, accepted: bool, svid: X509Svid) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.accepts(svid) is not accepted:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def envoy(pki: Pki, crls: Sequence[bytes] = (), *, spiffe: bool) -> AsyncIterator[Envoy]:
    with short_directory() as directory:
        stage = Envoy(directory, free_address())
        stage.trust([pki.root.certificate], crls, spiffe=spiffe)
        server = pki.root.svid("/envoy")
        (directory / "envoy.json").write_text(json.dumps(_bootstrap(stage, server)), encoding="utf-8")
        with (directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(find_envoy()),
                *(
                    "-c",
                    str(directory / "envoy.json"),
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                ),
                stdout=log,
                stderr=log,
            )
        try:
            # Somebody who is not revoked shows when it is ready.
            await stage.until(True, pki.root.svid("/somebody")) if not crls else await _listening(stage)
            yield stage
        finally:
            process.kill()
            await process.wait()


async def _listening(stage: Envoy) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(stage.address.host, stage.address.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki.made()


async def test_the_spiffe_validator_ignores_revocation_lists_and_a_changed_bundle_cuts(pki: Pki) -> None:
    async with envoy(pki, pki.crls, spiffe=True) as stage:
        # The leaf is revoked, and so is the intermediate above it: both are on lists that this Envoy has loaded.
        await stage.until(True, pki.leaf)
        other = TestAuthority("example.org")
        stage.trust([other.certificate], spiffe=True)
        await stage.until(False, pki.leaf)
        assert await stage.accepts(other.svid("/web"))


async def test_the_default_validator_refuses_by_the_same_lists(pki: Pki) -> None:
    async with envoy(pki, spiffe=False) as stage:
        assert await stage.accepts(pki.leaf)
        stage.trust([pki.root.certificate], pki.crls, spiffe=False)
        await stage.until(False, pki.leaf)


def test_our_own_check_refuses_the_stolen_intermediate_that_bundles_still_trust(pki: Pki) -> None:
    now, der = datetime.now(UTC), pki.leaf.chain[1]
    assert verify_x509_svid(pki.leaf.chain, pki.root.bundle, now) == WEB
    target = RevokedAuthority(fingerprint=fingerprint(der), key=key_fingerprint(der))
    revocations = Revocations(1, (Revocation(target=target, at=now, version=1),))
    with pytest.raises(Exception, match="VST1020"):
        verify_unrevoked(pki.leaf.chain, pki.root.bundle, now, revocations)


def _bootstrap(stage: Envoy, server: X509Svid) -> dict[str, Any]:
    key = x509_key(server)
    tls = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": _inline(b"".join(map(_pem, server.chain))),
                    "private_key": _inline(key),
                }
            ],
            "validation_context_sds_secret_config": {
                "name": "trust",
                "sds_config": {
                    "path_config_source": {"path": str(stage.directory / "trust.json")},
                    "resource_api_version": "V3",
                },
            },
        },
    }
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]
    answer = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {
                        "socket_address": {"address": stage.address.host, "port_value": stage.address.port}
                    },
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": answer,
                                }
                            ],
                            "transport_socket": {
                                "name": "envoy.transport_sockets.tls",
                                "typed_config": tls,
                            },
                        }
                    ],
                }
            ]
        },
    }


def x509_key(svid: X509Svid) -> bytes:
    return b"-----BEGIN PRIVATE KEY-----\n" + b64encode(svid.key) + b"\n-----END PRIVATE KEY-----\n"


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def _inline(data: bytes) -> dict[str, str]:
    return {"inline_bytes": b64encode(data).decode()}
