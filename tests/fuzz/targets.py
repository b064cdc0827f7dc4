"""What strangers send, and what must hold whatever it is: a result that keeps its promises, or one of our errors.

Each target takes bytes.  ``test_parsers.py`` feeds them from hypothesis, ``coverage_guided.py`` from a fuzzer that
watches which code they reach.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from vestibule.errors import VestibuleError
from vestibule.intent import Severity, load_files
from vestibule.pki.bundles import from_jwks, from_jwt_jwks, from_pem, to_jwks, to_pem
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.pki.csr import make_csr, parse_csr
from vestibule.pki.jwt import read_jwt_svid, verify_jwt_svid
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.secrets.dynamic.statements import statements
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2
from vestibule.xds.delta import DeltaStream
from vestibule.xds.protobuf import (
    delta_request_from,
    delta_response_to,
    sotw_request_from,
    sotw_response_to,
)
from vestibule.xds.resources import Resource, Snapshot
from vestibule.xds.sotw import SotwStream

TRUST_DOMAIN: Final = TrustDomain.parse("example.org")
SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
NAMES: Final = ("default", "ROOTCA", "ALL", "spiffe://example.org", "spiffe://example.org/web")
_MESSAGES: Final = 64
INTENT_FILES: Final = ("mesh.yaml", "services/web.yaml", "egress/out.yaml", "gateways/edge.yaml")


@dataclass(frozen=True)
class Target:
    """``run`` raises if a promise is broken; ``seeds`` are well-formed inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: Callable[[], tuple[bytes, ...]]


@cache
def authority() -> TestAuthority:
    return TestAuthority(TRUST_DOMAIN)


def spiffe_id(data: bytes) -> None:
    try:
        found = SpiffeId.parse(data.decode("utf-8", "surrogateescape"))
    except VestibuleError as error:
        str(error).encode("utf-8", "backslashreplace")
        return
    assert SpiffeId.parse(str(found)) == found
    assert len(str(found).encode()) <= 2048
    assert not {"", ".", ".."} & set(found.path.split("/")[1:])
    assert found.trust_domain.name == found.trust_domain.name.lower()


def csr(data: bytes) -> None:
    try:
        found = parse_csr(data)
    except VestibuleError:
        return
    assert public_key_der(found.public_key)
    assert found.spiffe_id is None or SpiffeId.parse(str(found.spiffe_id)) == found.spiffe_id


def certificate(data: bytes) -> None:
    now = datetime.now(UTC)
    try:
        facts = leaf_facts(data)
    except VestibuleError:
        return
    assert facts.spiffe_id.path
    try:
        found = verify_x509_svid([data], authority().bundle, now)
    except VestibuleError:
        return
    # Nothing but what the authority signed is ever accepted.
    assert data in _issued()
    assert found == facts.spiffe_id


def jwt(data: bytes) -> None:
    token = data.decode("latin-1")
    try:
        read_jwt_svid(token)
    except VestibuleError:
        return
    bundles = {TRUST_DOMAIN: authority().bundle}
    try:
        found = verify_jwt_svid(token, ["payments"], bundles.get, datetime.now(UTC))
    except VestibuleError:
        return
    assert token.rpartition(".")[0] in {each.decode().rpartition(".")[0] for each in _jwt_seeds()}
    assert found.spiffe_id.trust_domain == TRUST_DOMAIN


def bundle(data: bytes) -> None:
    for parse, write in ((from_jwks, to_jwks), (from_pem, to_pem), (from_jwt_jwks, None)):
        try:
            found: TrustBundle = parse(TRUST_DOMAIN, data)
        except VestibuleError:
            continue
        if write is not None:
            again = parse(TRUST_DOMAIN, write(found))
            assert again.x509_authorities == found.x509_authorities
            assert parse is from_pem or again.jwt_authorities == found.jwt_authorities


def sds(data: bytes) -> None:
    """A conversation: length-prefixed requests, to both variants of the protocol."""
    variants: tuple[tuple[Any, type[Any], Any, Any], ...] = (
        (SotwStream([SECRET]), discovery_pb2.DiscoveryRequest, sotw_request_from, sotw_response_to),
        (DeltaStream([SECRET]), discovery_pb2.DeltaDiscoveryRequest, delta_request_from, delta_response_to),
    )
    for machine, message, read, write in variants:
        _converse(machine, (message, read, write), _parts(data))


def _converse(machine: Any, codec: tuple[Any, Any, Any], parts: Iterator[bytes]) -> None:
    message, read, write = codec
    machine.update(_snapshot())
    for part in parts:
        try:
            machine.receive(read(message.FromString(part)))
        except (DecodeError, VestibuleError):
            return
        for _ in range(_MESSAGES):
            response = machine.next_response()
            if response is None:
                break
            assert {each.name for each in response.resources} <= set(NAMES)
            assert response.nonce
            write(response).SerializeToString()
        else:
            raise AssertionError("one request is answered without end")


def workload_api(data: bytes) -> None:
    """Messages of the Workload API, as far as its door looks into them."""
    for message in (
        workload_pb2.X509SVIDRequest,
        workload_pb2.JWTSVIDRequest,
        workload_pb2.ValidateJWTSVIDRequest,
    ):
        try:
            request = message.FromString(data)
        except DecodeError:
            continue
        if isinstance(request, workload_pb2.JWTSVIDRequest) and request.spiffe_id:
            spiffe_id(request.spiffe_id.encode())
        if isinstance(request, workload_pb2.ValidateJWTSVIDRequest):
            jwt(request.svid.encode("latin-1", "replace"))


def intent(data: bytes) -> None:
    """A file of an intent, of the kind that the first byte says, among others that are well-formed."""
    name = INTENT_FILES[data[0] % len(INTENT_FILES)] if data else INTENT_FILES[0]
    loaded = load_files({**_intent(), name: data[1:]})
    assert (loaded.intent is None) == any(each.severity is Severity.ERROR for each in loaded.problems)
    for found in loaded.problems:
        assert found.message
        assert found.advice
        str(found.error).encode("utf-8")


@cache
def _intent() -> dict[str, bytes]:
    return {
        "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\nrollout: {first: 10%}\n"
        b"defaults: {timeout: 5s, retry: {attempts: 2, on: [503, reset]}}\nroles: {staff: [web]}\n",
        "services/web.yaml": b"service: web\nports: {http: {protocol: http}}\nversions: [v1, v2]\n"
        b"allow: [{id: a, from: ['role:staff', edge], methods: [GET], paths: [/a/**]}]\n"
        b"routes: [{id: c, match: {path: /a/**, headers: {x-a: {equals: b}}}, split: {v1: 90, v2: 10}}]\n"
        b"limits: [{requests: 5/s, per: caller}]\nlocality: {prefer: zone}\n",
        "egress/out.yaml": b"external: out\nhosts: ['a.example:443', '[::1]:8443']\nprotocol: http2\n"
        b"tls: {sni: b.example}\nallow: [{id: a, from: [web]}]\ncredential: {header: a, file: /b}\n",
        "gateways/edge.yaml": b"gateway: edge\nlisteners: {a: {port: 1, hosts: ['*.a.example']}}\n"
        b"routes: [{id: a, match: {hosts: [b.a.example]}, to: web}, {id: b, redirect: {https: true}}]\n",
    }


def _parts(data: bytes) -> Iterator[bytes]:
    while len(data) >= 2:
        (length,) = struct.unpack(">H", data[:2])
        yield data[2 : 2 + length]
        data = data[2 + length :]


@cache
def _snapshot() -> Snapshot:
    return Snapshot.of("1", [Resource.of(SECRET, name, name.encode()) for name in NAMES])


@cache
def _issued() -> tuple[bytes, ...]:
    ours = authority().svid(SpiffeId.of(TRUST_DOMAIN, "/web"), ttl=timedelta(days=1))
    theirs = TestAuthority(TRUST_DOMAIN).svid(SpiffeId.of(TRUST_DOMAIN, "/web"))
    return ours.chain[0], theirs.chain[0]


@cache
def _jwt_seeds() -> tuple[bytes, ...]:
    identity = SpiffeId.of(TRUST_DOMAIN, "/web")
    return (authority().jwt_svid(identity, "payments").token.encode(),)


def _bundle_seeds() -> tuple[bytes, ...]:
    found = authority().bundle
    odd = json.dumps({"keys": [{"kty": "EC"}, {"use": "x509-svid", "kty": "EC", "x5c": ["AA=="]}]})
    return to_jwks(found), to_pem(found), odd.encode(), b'{"keys": []}'


def _csr_seeds() -> tuple[bytes, ...]:
    return make_csr(generate_key()), make_csr(
        generate_key(), SpiffeId.of(TRUST_DOMAIN, "/web"), ["web.example.org"]
    )


def _sds_seeds() -> tuple[bytes, ...]:
    def conversation(*requests: Any) -> bytes:
        parts = [request.SerializeToString() for request in requests]
        return b"".join(struct.pack(">H", len(part)) + part for part in parts)

    first = discovery_pb2.DiscoveryRequest(type_url=SECRET, resource_names=["default", "ROOTCA"])
    first.node.id = "envoy"
    again = discovery_pb2.DiscoveryRequest(
        type_url=SECRET, resource_names=["ALL"], response_nonce="1", version_info="1"
    )
    delta = discovery_pb2.DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=["default"])
    delta.node.id = "envoy"
    less = discovery_pb2.DeltaDiscoveryRequest(resource_names_unsubscribe=["default"], response_nonce="1")
    return conversation(first, again), conversation(delta, less)


def _workload_api_seeds() -> tuple[bytes, ...]:
    token = _jwt_seeds()[0].decode()
    return (
        workload_pb2.JWTSVIDRequest(
            audience=["payments"], spiffe_id="spiffe://example.org/web"
        ).SerializeToString(),
        workload_pb2.ValidateJWTSVIDRequest(audience="payments", svid=token).SerializeToString(),
    )


def _intent_seeds() -> tuple[bytes, ...]:
    return tuple(bytes([number]) + _intent()[name] for number, name in enumerate(INTENT_FILES))


# Reading YAML takes milliseconds: too slow for a fuzzer that wants to run a million times.
SLOW: Final = {"intent": Target(intent, _intent_seeds)}


def sql_statements(data: bytes) -> None:
    """Statements with places are read or refused, and what is put there does not end what it stands in."""
    text = data.decode("utf-8", "replace")
    try:
        found = statements([text], frozenset(("name", "password", "expiration")))
        for each in found:
            values = {"name": "a-b", "password": "c", "expiration": "d"}
            again = statements([each.filled(values)], frozenset())
            assert len(again) == 1
    except VestibuleError:
        return


TARGETS: Final = {
    "sql_statements": Target(
        sql_statements,
        lambda: (
            b"CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; -- {{x}}\nSELECT 1",
            b"DO $x$ BEGIN EXECUTE E'\\'{{name}}'; END $x$; DROP ROLE {{name}}",
        ),
    ),
    "spiffe_id": Target(spiffe_id, lambda: (b"spiffe://example.org/ns/prod/sa/web", b"SPIFFE://Example.org")),
    "csr": Target(csr, _csr_seeds),
    "certificate": Target(certificate, _issued),
    "jwt": Target(jwt, _jwt_seeds),
    "bundle": Target(bundle, _bundle_seeds),
    "sds": Target(sds, _sds_seeds),
    "workload_api": Target(workload_api, _workload_api_seeds),
}
