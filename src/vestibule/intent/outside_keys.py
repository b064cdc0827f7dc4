"""The keys of what lies outside the mesh: ``egress/NAME.yaml`` and ``gateways/NAME.yaml``."""

from __future__ import annotations

from typing import Final

from vestibule.intent import addresses, bounds_keys, rule_keys, service_keys, traffic_keys, words
from vestibule.intent.nodes import Position
from vestibule.intent.outside import DEFAULT_ADDRESS, Credential, GatewayTls, OutsideProtocol, OutsideTls
from vestibule.intent.presence import at_least_one
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import As, Either
from vestibule.intent.shapes import Choice, Fields, Key, Many, Record, Table, Text, Whole
from vestibule.intent.terms import FILE, HEADER, NAME, SERVICE_NAME, pattern

# --------------------------------------------------------------------------------- egress/NAME.yaml

EXTERNAL: Final = Key(
    "external", SERVICE_NAME, "The name that services call it by, which is also its file's.", required=True
)
HOSTS: Final = Key(
    "hosts",
    Many(Text(addresses.host_and_port, pattern(addresses.HOST_AND_PORT)), "host and port", least=1, most=32),
    "Where it is, such as api.stripe.com:443.",
    required=True,
)
OUTSIDE_PROTOCOL: Final = Key(
    "protocol",
    Choice.of([(each.value, each) for each in OutsideProtocol]),
    "What is spoken there.",
    default=OutsideProtocol.HTTP.value,
)
CA: Final = Key(
    "ca",
    Text(addresses.certificates, pattern(addresses.CERTIFICATES)),
    "Whom to trust instead of public authorities: a PEM file in certs/.",
)
SNI: Final = Key(
    "sni",
    Text(addresses.dns_name, pattern(addresses.DNS_NAME)),
    "The name to ask for and to verify; the host's, when left out.",
)
TLS_RECORD: Final = Record("tls", (CA, SNI))


def _tls(fields: Fields, at: Position, findings: Findings) -> Fields | None:
    return fields if at_least_one(fields, TLS_RECORD.keys, at, findings, "tls") else None


TLS: Final = Key(
    "tls",
    Either(Choice.of([(each.value, each) for each in OutsideTls]), As(TLS_RECORD, _tls)),
    "How it is verified: webpki by public authorities, none not at all (plain text), or by ca and sni.",
    default=OutsideTls.WEBPKI.value,
)
ADDRESSES: Final = Key(
    "addresses",
    Many(
        Text(addresses.ip_and_port, pattern(addresses.HOST_AND_PORT)), "IP address and port", least=1, most=32
    ),
    "Where to connect instead of asking DNS.",
)
CREDENTIAL_HEADER: Final = Key("header", HEADER, "The header to add, such as authorization.", required=True)
CREDENTIAL_PREFIX: Final = Key(
    "prefix", Text(words.prefix), "What stands before the secret, such as 'Bearer '."
)
CREDENTIAL_FILE: Final = Key("file", FILE, "The file with the secret, on the callers' hosts.", required=True)


def _credential(fields: Fields, at: Position, findings: Findings) -> Credential | None:
    header, file = fields.get(CREDENTIAL_HEADER), fields.get(CREDENTIAL_FILE)
    if not (header and file):
        return None
    return Credential(header=header.value, file=file.value, prefix=fields.value(CREDENTIAL_PREFIX, ""))


CREDENTIAL: Final = Key(
    "credential",
    As(Record("a credential", (CREDENTIAL_HEADER, CREDENTIAL_PREFIX, CREDENTIAL_FILE)), _credential),
    "A secret that callers' proxies add, so that no app has it.",
)
OUTSIDE_ALLOW: Final = Key(
    "allow",
    Many(rule_keys.OUTSIDE_RULE, "rule", distinct=False),
    "Who may call it, and how.  What no rule allows is denied.",
)
OUTSIDE_LIMITS: Final = Key(
    "limits",
    Many(
        Record("a limit of an external", (bounds_keys.RATE, bounds_keys.BURST, bounds_keys.LIMIT_PATH)),
        "limit",
        distinct=False,
        most=32,
    ),
    "How many requests each caller's proxy lets out; beyond it the app gets 429.",
)
EXTERNAL_FILE: Final = Record(
    "an external",
    (
        *(EXTERNAL, service_keys.OWNER, HOSTS, OUTSIDE_PROTOCOL, TLS, ADDRESSES, OUTSIDE_ALLOW, CREDENTIAL),
        *(traffic_keys.TIMEOUT, traffic_keys.RETRY, bounds_keys.CIRCUIT, bounds_keys.OUTLIER, OUTSIDE_LIMITS),
    ),
)

# -------------------------------------------------------------------------------- gateways/NAME.yaml

GATEWAY: Final = Key(
    "gateway",
    SERVICE_NAME,
    "The gateway's name, which is also its file's; rules name it as caller.",
    required=True,
)
LISTENER_PORT: Final = Key("port", Whole(1, 65535), "The port where the outside connects.", required=True)
ADDRESS: Final = Key(
    "address",
    Text(addresses.ip_address, pattern(addresses.IP)),
    "The address to listen at.",
    default=DEFAULT_ADDRESS,
)
CERTIFICATE: Final = Key("certificate", FILE, "A PEM file with the certificate and its chain.", required=True)
PRIVATE_KEY: Final = Key("key", FILE, "A PEM file with the certificate's private key.", required=True)


def _gateway_tls(fields: Fields, at: Position, findings: Findings) -> GatewayTls | None:
    certificate, key = fields.get(CERTIFICATE), fields.get(PRIVATE_KEY)
    return GatewayTls(certificate=certificate.value, key=key.value) if certificate and key else None


GATEWAY_TLS: Final = Key(
    "tls",
    As(Record("a listener's tls", (CERTIFICATE, PRIVATE_KEY)), _gateway_tls),
    "The certificate, by files on the gateway's host; plain text, when left out.",
)
HOST_PATTERN: Final = Text(addresses.host_pattern, pattern(addresses.HOST_PATTERN))
LISTENER_HOSTS: Final = Key(
    "hosts",
    Many(HOST_PATTERN, "host", least=1),
    "Which hosts it answers for: a name, *.example.com or '*'.",
    default="['*']",
)
LISTENERS: Final = Key(
    "listeners",
    Table(
        NAME,
        Record("a listener", (LISTENER_PORT, ADDRESS, GATEWAY_TLS, LISTENER_HOSTS)),
        "names to listeners",
    ),
    "Where the outside connects.",
    required=True,
)
MATCH_HOSTS: Final = Key(
    "hosts", Many(HOST_PATTERN, "host", least=1), "Which hosts; all of the listeners', when left out."
)
GATEWAY_MATCH: Final = Key(
    "match",
    Record("a gateway's match", (MATCH_HOSTS, *traffic_keys.MATCH_RECORD.keys)),
    "Which requests it is for; all, when left out.",
)
LEADS_TO: Final = Key("to", SERVICE_NAME, "The service that is called.")
SERVICE_PORT: Final = Key("port", NAME, "Which of its ports; may be left out where there is only one.")


def _route_token(fields: Fields, at: Position, findings: Findings) -> Fields:
    """Whether there is such an issuer is looked at where issuers are known."""
    return fields


ROUTE_TOKEN: Final = Key(
    "token",
    As(Record("a route's token", (rule_keys.ISSUER_NAME, rule_keys.AUDIENCE)), _route_token),
    "A token that requests from outside must carry, such as the ID token of a login; without it they get 401.",
)
# What means nothing where callers are sent elsewhere.
GATEWAY_ACTIONS: Final = (
    *(
        SERVICE_PORT,
        ROUTE_TOKEN,
        traffic_keys.REWRITE,
        traffic_keys.TIMEOUT,
        traffic_keys.IDLE_TIMEOUT,
        traffic_keys.RETRY,
    ),
)
GATEWAY_ROUTE: Final = Record(
    "a gateway's route",
    (traffic_keys.ROUTE_ID, GATEWAY_MATCH, LEADS_TO, traffic_keys.REDIRECT, *GATEWAY_ACTIONS),
)
GATEWAY_ROUTES: Final = Key(
    "routes",
    Many(GATEWAY_ROUTE, "route", least=1, distinct=False, most=500),
    "Where requests go; the first route that matches decides.  What none matches is answered 404.",
    required=True,
)
GATEWAY_FILE: Final = Record("a gateway", (GATEWAY, service_keys.OWNER, LISTENERS, GATEWAY_ROUTES))
