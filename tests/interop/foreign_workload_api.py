"""A Workload API that owes nothing to Vestibule: grpcio, the ``spiffe`` package's stubs, and a CA of a few lines.

    python foreign_workload_api.py SOCKET

A process of its own, which obeys its standard input: ``rotate``; ``withdraw`` (PERMISSION_DENIED from now on, until
it rotates again); ``end ok``, ``end CANCELLED`` and the like, which ends all streams in that way; ``garbage``, which
sends an answer without any SVID.  It answers each line with one.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID
from spiffe._proto import workload_pb2 as messages
from spiffe._proto import workload_pb2_grpc as stubs

TRUST_DOMAIN = "spiffe://elsewhere.example"
WORKLOAD = f"{TRUST_DOMAIN}/ns/shop/sa/orders"
KEY_ID = "one"


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def certificate(uri: str, key: Any, issuer: str, signer: Any, *, signs: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, uri)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
        .add_extension(usage(signs=signs), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not signs:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(signer, SHA256())


def der(thing: x509.Certificate) -> bytes:
    return thing.public_bytes(serialization.Encoding.DER)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Api(stubs.SpiffeWorkloadAPIServicer):
    """What the standard says, in the fewest words."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._authority = certificate(TRUST_DOMAIN, self._key, TRUST_DOMAIN, self._key, signs=True)
        self._told = threading.Condition()
        self._version = self._ended = 0
        self._ending = "ok"
        self._withdrawn = False
        self._answer = self._issued()

    def obey(self, line: str) -> None:
        with self._told:
            word, _, rest = line.partition(" ")
            if word == "end":
                self._ending, self._ended = rest, self._ended + 1
            elif word == "withdraw":
                self._withdrawn, self._ending, self._ended = True, "PERMISSION_DENIED", self._ended + 1
            else:
                self._withdrawn = False
                self._answer = messages.X509SVIDResponse() if word == "garbage" else self._issued()
                self._version += 1
            self._told.notify_all()

    def FetchX509SVID(self, request: Any, context: Any) -> Any:
        yield from self._stream(context, lambda: self._answer)

    def FetchJWTBundles(self, request: Any, context: Any) -> Any:
        point = self._key.public_key().public_numbers()
        key = {
            "kty": "EC",
            "crv": "P-256",
            "kid": KEY_ID,
            "x": b64(point.x.to_bytes(32)),
            "y": b64(point.y.to_bytes(32)),
        }
        document = json.dumps({"keys": [key]}).encode()
        yield from self._stream(
            context, lambda: messages.JWTBundlesResponse(bundles={TRUST_DOMAIN: document})
        )

    def FetchJWTSVID(self, request: Any, context: Any) -> Any:
        self._admit(context)
        now = int(datetime.now(UTC).timestamp())
        header = {"alg": "ES256", "kid": KEY_ID, "typ": "JWT"}
        claims = {"sub": WORKLOAD, "aud": list(request.audience), "iat": now, "exp": now + 300}
        signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        token = f"{signed}.{b64(r.to_bytes(32) + s.to_bytes(32))}"
        return messages.JWTSVIDResponse(svids=[messages.JWTSVID(spiffe_id=WORKLOAD, svid=token)])

    def _admit(self, context: Any) -> None:
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if self._withdrawn:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")

    def _stream(self, context: Any, answer: Any) -> Any:
        self._admit(context)
        seen, ended = -1, self._ended
        while context.is_active():
            if self._ended != ended:
                if self._ending == "ok":
                    return
                context.abort(grpc.StatusCode[self._ending], "as it was told")
            if self._version != seen:
                seen = self._version
                yield answer()
            with self._told:
                if (self._version, self._ended) == (seen, ended):
                    self._told.wait(timeout=1)

    def _issued(self) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certificate(WORKLOAD, key, TRUST_DOMAIN, self._key, signs=False)
        private = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        svid = messages.X509SVID(
            spiffe_id=WORKLOAD, x509_svid=der(leaf), x509_svid_key=private, bundle=der(self._authority)
        )
        return messages.X509SVIDResponse(svids=[svid])


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    api = Api()
    server = grpc.server(ThreadPoolExecutor(32))
    add: Any = stubs.add_SpiffeWorkloadAPIServicer_to_server
    add(api, server)
    server.add_insecure_port(f"unix://{sys.argv[1]}")
    server.start()
    say("ready")
    for line in sys.stdin:
        api.obey(line.strip())
        say("done")
    os._exit(0)


if __name__ == "__main__":
    main()
