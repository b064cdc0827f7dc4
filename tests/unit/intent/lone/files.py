"""A pair of lone sidecars, as files."""

from __future__ import annotations

from vestibule.intent.lone import Lone, read_lone

DOMAIN = "spiffe://example.org/ns/prod/sa"
ORDERS = f"""
service: orders
identity: {DOMAIN}/orders
ports:
  http: {{app: 8080, protocol: http, listen: '10.0.0.4:8443'}}
callers: {{web: {DOMAIN}/web}}
roles: {{readers: [web, orders]}}
allow:
  - {{id: ask, from: ['role:readers'], methods: [GET], paths: ['/v1/**']}}
upstreams:
  ledger:
    addresses: ['10.0.0.5:8443']
    identity: {DOMAIN}/ledger
    protocol: http
    timeout: 2s
    routes: [{{id: slow, match: {{path: /v1/slow}}, timeout: 10s}}]
egress:
  stripe: {{hosts: ['api.stripe.com:443'], allow: [{{id: charge, methods: [POST], paths: ['/v1/**']}}]}}
"""
LEDGER = f"""
service: ledger
identity: {DOMAIN}/ledger
ports:
  http: {{app: 8090, protocol: http, listen: '10.0.0.5:8443'}}
callers: {{orders: {DOMAIN}/orders}}
allow:
  - {{id: read, from: [orders], methods: [GET], paths: ['/v1/**']}}
deny:
  - {{id: closed, from: [orders], paths: ['/v1/closed/**']}}
limits: [{{requests: 100/s, per: caller}}]
egress:
  stripe: {{hosts: ['api.stripe.com:443'], allow: [{{id: charge, methods: [GET], paths: ['/v1/**']}}]}}
"""


def lone(text: str, file: str = "orders.yaml") -> Lone:
    loaded = read_lone(text.encode(), file)
    assert loaded.lone is not None, [str(each.error) for each in loaded.problems]
    return loaded.lone
