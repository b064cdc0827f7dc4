"""Outside hosts and gateways: as their files say, or refused where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.intent.reading import CALLER, MESH, accepted, found, only, whole_language
from tests.unit.intent.test_published_keys import EC

from vestibule.intent import Intent, Loaded, load, load_files
from vestibule.intent.outside import (
    Credential,
    External,
    GatewayListener,
    GatewayTls,
    HostPort,
    OutsideProtocol,
    OutsideTls,
)
from vestibule.intent.traffic import RateLimit, Redirect, Retry, Rewrite, RouteMatch, RouteToken, Traffic
from vestibule.policy import Call as PolicyCall
from vestibule.policy import PathPattern
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided

WEB = "service: web\nports: {http: {protocol: http}}\nallow: [{id: edge, from: [edge]}]\n"
STRIPE = """\
external: stripe
hosts: [api.stripe.com:443]
allow: [{id: pay, from: [payments], methods: [POST], paths: [/v1/**]}]
"""
EDGE = """\
gateway: edge
listeners: {https: {port: 8443, hosts: [shop.example.com, '*.example.net']}}
routes: [{id: api, to: web}]
"""


@pytest.fixture(autouse=True)
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


@pytest.fixture(scope="module")
def pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def read(stripe: str = STRIPE, edge: str = EDGE, **more: str) -> Loaded:
    files = {
        "mesh.yaml": MESH,
        "services/web.yaml": WEB,
        "services/payments.yaml": CALLER.format("payments"),
        "egress/stripe.yaml": stripe,
        "gateways/edge.yaml": edge,
        **more,
    }
    return load_files({name: text.encode() for name, text in files.items()})


def external(text: str, **more: str) -> External:
    return accepted(read(text, **more)).externals["stripe"]


def test_an_external_says_where_it_is_and_who_may_call_it() -> None:
    stripe = external(STRIPE)
    assert stripe.hosts == (HostPort(host="api.stripe.com", port=443),)
    assert (stripe.protocol, stripe.tls, stripe.ca, stripe.sni) == (
        OutsideProtocol.HTTP,
        OutsideTls.WEBPKI,
        None,
        None,
    )
    (rule,) = stripe.allow
    assert (rule.name, rule.port, str(rule.where)) == ("egress/stripe/pay", None, "egress/stripe.yaml:3:9")
    caller = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")
    call = PolicyCall(caller=caller, port="any", method="POST", path="/v1/charges")
    assert decided(stripe.allow, call).rule == "egress/stripe/pay"


def test_an_external_says_how_it_is_called(pem: str) -> None:
    said = (
        "owner: team-payments\nprotocol: http2\naddresses: ['10.0.0.7:443', '[::1]:8443']\n"
        "tls: {ca: certs/ca.pem, sni: stripe.internal}\n"
        "credential: {header: authorization, prefix: 'Bearer ', file: /etc/stripe/token}\n"
        "timeout: 3s\nretry: {attempts: 2}\noutlier_detection: {}\ncircuit_limits: {requests: 5}\n"
        "limits: [{requests: 10/s, burst: 5, path: /v1/**}]\n"
    )
    stripe = external(STRIPE + said, **{"certs/ca.pem": pem})
    assert stripe.addresses == (HostPort(host="10.0.0.7", port=443), HostPort(host="::1", port=8443))
    assert (stripe.ca, stripe.sni, stripe.owner) == (pem, "stripe.internal", "team-payments")
    assert stripe.credential == Credential(header="authorization", prefix="Bearer ", file="/etc/stripe/token")
    assert (stripe.traffic.timeout, stripe.traffic.retry) == (timedelta(seconds=3), Retry(attempts=2))
    assert stripe.traffic.limits == (RateLimit(requests=10, burst=5, path=PathPattern.parse("/v1/**")),)


def test_an_external_may_speak_tcp_and_plain_text() -> None:
    tcp = (
        "external: stripe\nhosts: [db.example.com:5432]\nprotocol: tcp\nallow: [{id: a, from: [payments]}]\n"
    )
    stripe = external(tcp)
    assert (stripe.protocol, stripe.traffic) == (OutsideProtocol.TCP, Traffic())
    assert external(STRIPE + "tls: none\n").tls is OutsideTls.NONE


@pytest.mark.parametrize(
    ("stripe", "code", "why"),
    [
        (STRIPE.replace("hosts: [api.stripe.com:443]\n", ""), "VST0021", "'hosts'"),
        (STRIPE.replace("api.stripe.com:443", "api.stripe.com"), "VST0025", "host in lower case and a port"),
        (STRIPE.replace("api.stripe.com:443", "API.stripe.com:443"), "VST0025", "lower case"),
        (STRIPE.replace("api.stripe.com:443", "api.stripe.com:0"), "VST0025", "a port"),
        (STRIPE.replace("api.stripe.com:443", "'*.stripe.com:443'"), "VST0025", "a port"),
        (STRIPE.replace("api.stripe.com:443", "'https://api.stripe.com:443'"), "VST0025", "a port"),
        (STRIPE.replace("api.stripe.com:443", "'999.0.0.1:443'"), "VST0025", "a port"),
        (STRIPE.replace("api.stripe.com:443", "'::1:443'"), "VST0025", "a port"),
        (STRIPE.replace("external: stripe", "external: strype"), "VST0004", "'stripe'.*'strype'"),
        (STRIPE.replace("[payments]", "[paymens]"), "VST0040", "no service 'paymens'"),
        (STRIPE.replace("from:", "port: http, from:"), "VST0020", "no key 'port'"),
        (STRIPE + "protocol: mcp\n", "VST0025", "not one of"),
        (STRIPE + "tls: strict\n", "VST0025", "not one of webpki, none"),
        (STRIPE + "tls: {}\n", "VST0021", "says nothing"),
        (STRIPE + "tls: {ca: /etc/ca.pem}\n", "VST0025", "not a file of the intent"),
        (STRIPE + "tls: {ca: certs/../ca.pem}\n", "VST0025", "not a file of the intent"),
        (STRIPE + "tls: {ca: certs/ca.pem}\n", "VST0040", "no file 'certs/ca.pem'"),
        (STRIPE + "tls: {sni: 10.0.0.1}\n", "VST0025", "not a DNS name"),
        (STRIPE + "addresses: [api.stripe.com:443]\n", "VST0025", "not an IP address"),
        (STRIPE + "credential: {header: host, file: /a}\n", "VST0025", "belongs to the proxies"),
        (STRIPE + "credential: {header: authorization, file: a}\n", "VST0025", "absolute path"),
        (STRIPE + "credential: {header: authorization, file: /a/../b}\n", "VST0025", "absolute path"),
        (STRIPE + 'credential: {header: a, file: /a, prefix: "ä"}\n', "VST0025", "in a header"),
        (STRIPE + "tls: none\ncredential: {header: a, file: /a}\n", "VST0062", "plain text"),
        (STRIPE + "limits: [{requests: 1/s, per: caller}]\n", "VST0020", "no key 'per'"),
        (STRIPE + "limits: [{requests: 1/s}, {requests: 2/s}]\n", "VST0026", "line 4 limits"),
        (
            STRIPE.replace("POST", "GET") + "timeout: 1s\nretry: {attempts: 2, per_try: 1s}\n",
            "VST0056",
            "2 tries",
        ),
        (STRIPE + "retry: {on: [unavailable]}\n", "VST0054", "gRPC"),
        (STRIPE + "retry: {on: [503]}\n", "VST0061", "carried out twice"),
        (STRIPE[: STRIPE.index("allow")], "VST0060", "nobody may call stripe"),
        (STRIPE + "routes: []\n", "VST0020", "no key 'routes'"),
    ],
)
def test_an_external_that_cannot_be_meant_is_refused(stripe: str, code: str, why: str) -> None:
    place, message, fix = only(read(stripe))
    assert place.startswith("egress/stripe.yaml:")
    assert place.endswith(code)
    assert re.search(why, message), message
    assert fix


@pytest.mark.parametrize(
    "line",
    [
        "timeout: 1s",
        "retry: {attempts: 2}",
        "limits: [{requests: 1/s}]",
        "credential: {header: a, file: /a}",
        "circuit_limits: {requests: 1}",
    ],
)
def test_an_external_of_tcp_has_no_requests(line: str) -> None:
    tcp = "external: stripe\nhosts: [a.example:1]\nprotocol: tcp\nallow: [{id: a, from: [payments]}]\n"
    assert only(read(tcp + line + "\n"))[0].endswith("VST0050")
    assert found(read(tcp.replace("[payments]", "[payments], paths: [/a]"))) == [
        "egress/stripe.yaml:4:35 VST0050"
    ]


def test_authorities_are_certificates_and_nothing_else(pem: str, tmp_path: Path) -> None:
    stripe = STRIPE + "tls: {ca: certs/ca.pem}\n"
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert only(read(stripe, **{"certs/ca.pem": "hello"}))[0].endswith("VST0063")
    assert "private key" in only(read(stripe, **{"certs/ca.pem": pem + key.decode()}))[1]
    assert external(stripe, **{"certs/ca.pem": pem * 2}).ca == pem * 2
    # From a directory, a private key does not even become part of what was read.
    for name, text in {
        "mesh.yaml": MESH,
        "services/web.yaml": CALLER.format("web"),
        "certs/a.pem": key.decode(),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    loaded = load(tmp_path)
    assert found(loaded) == ["certs/a.pem VST0063"]
    assert "certs/a.pem" not in loaded.files


def gateway(text: str, **more: str) -> Intent:
    return accepted(read(edge=text, **more))


def test_a_gateway_says_where_the_outside_comes_in_and_where_it_goes() -> None:
    text = """\
gateway: edge
owner: team-edge
listeners:
  https:
    port: 8443
    address: '::'
    tls: {certificate: /etc/edge/tls.crt, key: /etc/edge/tls.key}
    hosts: [shop.example.com]
  plain: {port: 8080}
routes:
  - id: api
    match: {hosts: [shop.example.com], path: /api/**, methods: [GET]}
    to: web
    port: http
    rewrite: {path: /}
    timeout: 5s
    idle_timeout: 1m
    retry: {attempts: 2}
  - {id: up, match: {hosts: ['*']}, redirect: {https: true, status: 301}}
"""
    edge = gateway(text).gateways["edge"]
    assert edge.spiffe_id == SpiffeId.parse("spiffe://example.org/ns/prod/sa/edge")
    assert edge.owner == "team-edge"
    assert dict(edge.listeners) == {
        "https": GatewayListener(
            name="https",
            port=8443,
            address="::",
            tls=GatewayTls(certificate="/etc/edge/tls.crt", key="/etc/edge/tls.key"),
            hosts=("shop.example.com",),
        ),
        "plain": GatewayListener(name="plain", port=8080),
    }
    api, up = edge.routes
    assert (api.name, api.service, api.service_port, api.port) == ("edge/api", "web", "http", None)
    assert api.match == RouteMatch(
        hosts=("shop.example.com",), path=PathPattern.parse("/api/**"), methods=frozenset({"GET"})
    )
    assert (api.rewrite, api.timeout) == (Rewrite(path="/"), timedelta(seconds=5))
    assert (api.idle_timeout, api.retry) == (timedelta(minutes=1), Retry(attempts=2))
    assert (up.service, up.redirect) == (None, Redirect(https=True, status=301))


def test_rules_name_a_gateway_as_they_name_a_service() -> None:
    (rule,) = gateway(EDGE).services["web"].allow
    assert [str(caller) for caller in rule.callers] == ["spiffe://example.org/ns/prod/sa/edge"]


def with_routes(routes: str) -> str:
    return EDGE[: EDGE.index("routes:")] + "routes:\n" + routes


@pytest.mark.parametrize(
    ("edge", "code", "why"),
    [
        (EDGE.replace("routes: [{id: api, to: web}]\n", ""), "VST0021", "'routes'"),
        (EDGE.replace("port: 8443", "port: 0"), "VST0025", "from 1 to 65535"),
        (EDGE.replace("port: 8443", "port: 8443, address: localhost"), "VST0025", "not an IP address"),
        (EDGE.replace("port: 8443", "port: 8443, tls: {certificate: /a}"), "VST0021", "'key'"),
        (EDGE.replace("port: 8443", "port: 8443, tls: {certificate: a, key: /b}"), "VST0025", "absolute"),
        (EDGE.replace("shop.example.com", "'shop.*'"), "VST0025", "not a DNS name"),
        (EDGE.replace("net']}}", "net']}, b: {port: 8443}}"), "VST0026", "same port 8443"),
        (with_routes("- {id: a, to: wep}\n"), "VST0040", "no service 'wep'"),
        (with_routes("- {id: a, to: stripe}\n"), "VST0040", "no service 'stripe'"),
        (with_routes("- {id: a, to: web, port: htp}\n"), "VST0040", "no port 'htp'"),
        (with_routes("- {id: a, to: payments}\n"), "VST0044", "no ports"),
        (with_routes("- {id: a}\n"), "VST0021", "says nothing"),
        (
            with_routes("- {id: a, to: web, redirect: {https: true}}\n"),
            "VST0027",
            "redirect and to|to and redirect",
        ),
        (with_routes("- {id: a, redirect: {https: true}, timeout: 1s}\n"), "VST0054", "timeout"),
        (with_routes("- {id: a, match: {path: /a}, redirect: {path: /a}}\n"), "VST0057", "own redirect"),
        (with_routes("- {id: a, to: web, split: {v1: 100}}\n"), "VST0020", "no key 'split'"),
        (with_routes("- {id: a, to: web, match: {hosts: [other.example.com]}}\n"), "VST0053", "no listener"),
        (with_routes("- {id: a, to: web}\n- {id: b, to: web}\n"), "VST0053", "edge/a takes all"),
        (with_routes("- {id: a, to: web, match: {path: /a}}\n- {id: a, to: web}\n"), "VST0026", "taken"),
        (
            with_routes(
                "- {id: a, to: web, match: {hosts: ['*.example.net']}}\n"
                "- {id: b, to: web, match: {hosts: [a.example.net]}}\n"
            ),
            "VST0053",
            "edge/a takes all",
        ),
        (
            with_routes("- {id: a, to: web, match: {methods: [GET]}, timeout: 1s, retry: {per_try: 1s}}\n"),
            "VST0056",
            "3 tries",
        ),
        (with_routes("- {id: a, to: web, retry: {on: [unavailable]}}\n"), "VST0054", "gRPC"),
        (with_routes("- {id: a, to: web, retry: {on: [503]}}\n"), "VST0061", "POST"),
        (with_routes("- {id: a, to: web, token: {audience: x}}\n"), "VST0021", "no issuers"),
        (
            with_routes("- {id: a, to: web, token: {issuer: corp, audience: x}}\n"),
            "VST0040",
            "no issuer 'corp'",
        ),
        (with_routes("- {id: a, redirect: {https: true}, token: {audience: x}}\n"), "VST0054", "token"),
    ],
)
def test_a_gateway_that_cannot_be_meant_is_refused(edge: str, code: str, why: str) -> None:
    place, message, fix = only(read(edge=edge))
    assert place.startswith("gateways/edge.yaml:")
    assert place.endswith(code)
    assert re.search(why, message), message
    assert fix


def test_a_gateway_asks_for_the_tokens_that_a_route_names() -> None:
    issuer = "issuers: {corp: {issuer: 'https://login.example.com', keys: keys/corp.json}}\n"
    more = {"mesh.yaml": MESH + issuer, "keys/corp.json": json.dumps({"keys": [EC]})}
    text = with_routes("- {id: a, to: web, token: {audience: shop}}\n")
    (route,) = gateway(text, **more).gateways["edge"].routes
    assert route.token == RouteToken(issuer="corp", audience="shop")


@pytest.mark.parametrize("keys", ["tokens", "spiffe"])
def test_a_gateway_takes_no_tokens_that_services_show_each_other(keys: str) -> None:
    text = with_routes("- {id: a, to: web, token: {issuer: own, audience: shop}}\n")
    issuer = f"issuers: {{own: {{keys: {keys}}}}}\n"
    place, message, fix = only(read(edge=text, **{"mesh.yaml": MESH + issuer}))
    assert place.endswith("VST0025")
    assert "'own' are for services" in message
    assert "outside" in fix


def test_a_gateway_is_named_as_its_file() -> None:
    assert "gateways/edge.yaml:1:10 VST0004" in found(
        read(edge=EDGE.replace("gateway: edge", "gateway: egde"))
    )


def test_hosts_that_differ_leave_each_other_requests() -> None:
    gateway(
        with_routes(
            "- {id: a, to: web, match: {hosts: [shop.example.com]}}\n"
            "- {id: b, to: web, match: {hosts: ['*.example.net']}}\n- {id: c, to: web}\n"
        )
    )


def test_a_gateway_sends_no_requests_to_a_tcp_port() -> None:
    tcp = "service: web\nports: {raw: {protocol: tcp}}\nallow: []\n"
    assert only(read(**{"services/web.yaml": tcp}))[0] == "gateways/edge.yaml:3:24 VST0050"


def test_a_gateway_that_no_rule_names_is_warned_of() -> None:
    closed = WEB.replace("[edge]", "[payments]")
    place, message, _ = only(read(**{"services/web.yaml": closed}))
    assert place == "gateways/edge.yaml:3:10 VST0064"
    assert "web does not allow the gateway edge" in message


def test_a_mirror_to_a_service_that_denies_the_callers_is_warned_of() -> None:
    web = WEB + "routes: [{id: m, mirror: [{to: 'service:copy'}]}]\n"
    copy = "service: copy\nports: {http: {protocol: http}}\nallow: [{id: a, from: [payments]}]\n"
    place, message, _ = only(read(**{"services/web.yaml": web, "services/copy.yaml": copy}))
    assert place == "services/web.yaml:4:10 VST0064"
    assert "from spiffe://example.org/ns/prod/sa/edge, which it denies" in message
    accepted(read(**{"services/web.yaml": web, "services/copy.yaml": copy.replace("payments", "edge")}))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("services/stripe.yaml", CALLER.format("stripe")),
        ("gateways/stripe.yaml", EDGE.replace("gateway: edge", "gateway: stripe").replace("8443", "8444")),
    ],
)
def test_services_externals_and_gateways_share_one_space_of_names(file: str, text: str) -> None:
    allowed = WEB.replace("[edge]", "[edge, stripe]")
    places = found(read(**{file: text, "services/web.yaml": allowed}))
    assert places == [f"{file}:1:10 VST0065"]
