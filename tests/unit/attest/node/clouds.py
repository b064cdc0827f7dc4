"""Test authorities that stand in for clouds, clusters and a company's own CA."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from tests.unit.attest.doubles import Asked, FakeHttp, Reply

from vestibule.spiffe import TrustDomain

TD = TrustDomain.parse("example.org")
NOW = datetime.now(UTC).replace(microsecond=0)
PEM = serialization.Encoding.PEM
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    name: str,
    key: Any,
    issuer: str = "",
    signer: Key | None = None,
    *,
    ca: bool = False,
    digital_signature: bool = True,
    uris: tuple[str, ...] = (),
    ends: timedelta = timedelta(hours=1),
    serial: int = 0xABC,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)]))
        .public_key(key.public_key() if hasattr(key, "public_key") else key)
        .serial_number(serial)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + ends)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature and not ca, False, False, False, False, ca, False, False, False),
            critical=True,
        )
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer or key, hashes.SHA256())


def pem_key(key: Key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def fingerprint(cert: x509.Certificate) -> str:
    return hashlib.sha1(cert.public_bytes(serialization.Encoding.DER)).hexdigest()


class Company:
    """A root, an intermediate, and nodes' certificates."""

    def __init__(self) -> None:
        self.key, self.intermediate_key = new_key(), new_key()
        self.root = certificate("root", self.key, ca=True)
        self.intermediate = certificate("intermediate", self.intermediate_key, "root", self.key, ca=True)

    def leaf(self, key: Any, name: str = "node-1", **more: Any) -> x509.Certificate:
        return certificate(name, key, "intermediate", self.intermediate_key, **more)

    def write(self, directory: Path, key: Key, leaf: x509.Certificate | None = None) -> None:
        leaf = leaf or self.leaf(key)
        (directory / "ca.pem").write_bytes(self.root.public_bytes(PEM))
        (directory / "node.pem").write_bytes(leaf.public_bytes(PEM) + self.intermediate.public_bytes(PEM))
        (directory / "node.key").write_bytes(pem_key(key))


@dataclass
class Google:
    """Signs instance identity tokens, and serves them as a metadata server."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: RSA_KEY)
    kid: str = "g1"

    def jwks(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        n, e = (b64url(each.to_bytes(256).lstrip(b"\0")) for each in (numbers.n, numbers.e))
        return json.dumps({"keys": [{"kty": "RSA", "kid": self.kid, "n": n, "e": e}, {"kty": "EC"}]}).encode()

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(NOW.timestamp())
        return {
            "iss": "https://accounts.google.com",
            "aud": "spire-gcp-node-attestor",
            "iat": now,
            "exp": now + 3600,
            "email": "agent@project-1.iam.gserviceaccount.com",
            "google": {
                "compute_engine": {
                    "project_id": "project-1",
                    "instance_id": "1234567890",
                    "instance_name": "vm-1",
                    "zone": "europe-west1-b",
                }
            },
            **more,
        }

    def token(self, claims: dict[str, Any] | None = None, head: dict[str, Any] | None = None) -> bytes:
        head = {"alg": "RS256", "kid": self.kid, "typ": "JWT"} if head is None else head
        parts = [b64url(json.dumps(each).encode()) for each in (head, claims or self.claims())]
        signature = self.key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join((*parts, b64url(signature))).encode()

    def metadata(self) -> FakeHttp:
        def token(asked: Asked) -> Reply:
            return (200, self.token()) if asked.headers.get("metadata-flavor") == "Google" else (403, b"")

        target = "/computeMetadata/v1/instance/service-accounts/default/identity"
        return FakeHttp({f"GET {target}?audience=spire-gcp-node-attestor&format=full": token})


DOCUMENT = {
    "accountId": "123456789012",
    "region": "eu-central-1",
    "availabilityZone": "eu-central-1a",
    "imageId": "ami-1",
    "instanceId": "i-0123456789",
}


@dataclass
class Amazon:
    """Signs instance identity documents, and serves them as a metadata service (IMDSv2)."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: RSA_KEY)
    name: str = "aws"

    def write(self, directory: Path, region: str = "eu-central-1") -> None:
        directory.mkdir(exist_ok=True)
        (directory / f"{region}.pem").write_bytes(certificate(self.name, self.key).public_bytes(PEM))

    def signature(self, document: bytes, *options: pkcs7.PKCS7Options) -> bytes:
        builder = pkcs7.PKCS7SignatureBuilder().set_data(document)
        builder = builder.add_signer(certificate(self.name, self.key), self.key, hashes.SHA256())
        return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])

    def rsa1024(self, document: bytes) -> str:
        return base64.b64encode(self.key.sign(document, padding.PKCS1v15(), hashes.SHA256())).decode()

    def evidence(self, document: dict[str, Any] | bytes = b"", **more: Any) -> bytes:
        data = (
            document
            if isinstance(document, bytes) and document
            else json.dumps(document or DOCUMENT).encode()
        )
        signed = base64.encodebytes(self.signature(data)).decode()
        return json.dumps(
            {"document": data.decode(), "signature": self.rsa1024(data), "rsa2048": signed, **more}
        ).encode()

    def metadata(self) -> FakeHttp:
        parts = json.loads(self.evidence())

        def served(name: str) -> Any:
            def reply(asked: Asked) -> Reply:
                known = asked.headers.get("x-aws-ec2-metadata-token") == "t0ken"
                return (200, parts[name].encode()) if known else (401, b"")

            return reply

        dynamic = {f"GET /latest/dynamic/instance-identity/{name}": served(name) for name in parts}
        return FakeHttp({"PUT /latest/api/token": (200, b"t0ken"), **dynamic})


@dataclass
class KubeApi:
    """An API server with one agent pod."""

    token: str = "aa.bb.cc"
    status: dict[str, Any] = field(default_factory=dict)
    pod: dict[str, Any] = field(default_factory=dict)
    http: FakeHttp = field(init=False)

    def __post_init__(self) -> None:
        self.status = {
            "authenticated": True,
            "audiences": ["spire-server"],
            "user": {
                "username": "system:serviceaccount:spire:spire-agent",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["agent-1"],
                    "authentication.kubernetes.io/pod-uid": ["pod-uid-1"],
                },
            },
        }
        self.pod = {
            "metadata": {"uid": "pod-uid-1", "labels": {"app": "agent", "hidden": "x"}},
            "spec": {"nodeName": "node-1"},
            "status": {"hostIP": "10.0.0.7"},
        }
        node = {"metadata": {"uid": "node-uid-1", "labels": {"zone": "a", "hidden": "x"}}}
        self.http = FakeHttp(
            {
                "POST /apis/authentication.k8s.io/v1/tokenreviews": self.review,
                "GET /api/v1/namespaces/spire/pods/agent-1": lambda _: (200, json.dumps(self.pod).encode()),
                "GET /api/v1/nodes/node-1": lambda _: (200, json.dumps(node).encode()),
            }
        )

    def review(self, asked: Asked) -> Reply:
        spec = json.loads(asked.body)["spec"]
        assert asked.headers["authorization"] == "Bearer server-token"
        good = spec == {"token": self.token, "audiences": ["spire-server"]}
        status = self.status if good else {"authenticated": False}
        return (201, json.dumps({"kind": "TokenReview", "status": status}).encode())
