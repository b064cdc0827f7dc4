"""A shop whose services call each other for people, as `vestibule up` runs it: web → orders → reports, and a thief.

Each app does its part of a chain, and else what it is told, as itself: so that a test sees what every service sees.
"""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import httpx
from tests.e2e.front_door import PATIENCE, Program, until
from tests.e2e.oidc_lab import Provider
from tests.ports import free_port

from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import tokens_pb2

GRANT: Final = "urn:ietf:params:oauth:grant-type"
EXCHANGE: Final = f"{GRANT}:token-exchange"
JWT_BEARER: Final = f"{GRANT}:jwt-bearer"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
TOKENS: Final = "http://tokens/oauth2/token"
APP: Final = '''
import base64, json, os, pathlib, sys, urllib.error, urllib.parse, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = sys.argv[1]
NEXT = {"web": "orders", "orders": "reports"}.get(NAME)
GRANT = "urn:ietf:params:oauth:grant-type:"
TYPE = "urn:ietf:params:oauth:token-type:access_token"


def ask(url, form=None, token="", headers=None, method=None):
    data = None if form is None else urllib.parse.urlencode(form, doseq=True).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    if token:
        request.add_header("authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()
    except OSError as error:
        return 0, {}, repr(error)


def trade(token):
    """For the next service: the first trades a login, the others what they were given."""
    if NAME == "web":
        form = {"grant_type": GRANT + "jwt-bearer", "assertion": token, "scope": "order:read report:read"}
    else:
        form = {"grant_type": GRANT + "token-exchange", "subject_token": token, "subject_token_type": TYPE}
        form["scope"] = "report:read"
    return ask("http://tokens/oauth2/token", {**form, "audience": NEXT})


def chain(token):
    if NEXT is None:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        print("the chain of", claims["sub"], json.dumps(claims["act"]), flush=True)
        return 200, {}, json.dumps(claims)
    status, headers, body = trade(token)
    if status != 200:
        return status, headers, body
    return ask("http://" + NEXT + "/chain", token=json.loads(body)["access_token"])


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if self.path == "/chain":
            status, _, body = chain(token)
        else:
            status, body = 200, json.dumps({"app": NAME, "authorization": token})
        self.answer(status, body)

    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.answer(200, json.dumps(ask(**told)))

    def answer(self, status, body):
        data = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App)
server.daemon_threads = True
pathlib.Path(sys.argv[2], NAME + ".port").write_text(os.environ["PORT"])
server.serve_forever()
'''
FILES: Final = {
    "mesh.yaml": """
mesh: shop
trust_domain: example.org
environment: prod
issuers:
  internal: {{keys: tokens}}
  corp: {{issuer: '{issuer}', keys: '{keys}', audiences: [shop-web]}}
""",
    "services/web.yaml": """
service: web
ports: {{http: {{protocol: http}}}}
allow:
  - {{id: people, from: [edge], paths: [/chain], token: {{issuer: corp, audience: shop-web, bound: false}}}}
""",
    "services/orders.yaml": """
service: orders
ports: {{http: {{protocol: http}}}}
deny_detail: caller
allow:
  - id: read
    from: [web, thief]
    methods: [GET]
    token: {{issuer: internal, audience: orders, scopes: [order:read]}}
""",
    "services/reports.yaml": """
service: reports
ports: {{http: {{protocol: http}}}}
allow:
  - {{id: read, from: [orders], token: {{issuer: internal, audience: reports, scopes: [report:read]}}}}
""",
    "services/thief.yaml": "service: thief\nports: {{http: {{protocol: http}}}}\nallow: []\n",
    "tokens/orders.yaml": """
tokens: orders
audiences: [orders]
scopes: [order:read, order:write, report:read]
allow:
  - {{id: web-own, from: [web], may: [mint], scopes: [order:read]}}
  - id: login
    from: [web]
    may: [admit]
    issuers: [corp]
    scopes: [order:read, report:read]
    when: 'token.claims.email_verified == true'
  - {{id: hand-on, from: [orders], may: [exchange]}}
""",
    "tokens/reports.yaml": """
tokens: reports
audiences: [reports]
scopes: [report:read]
allow:
  - {{id: chain, from: [orders], may: [receive], scopes: [report:read]}}
""",
    "gateways/edge.yaml": """
gateway: edge
listeners: {{http: {{port: {gateway}, address: 127.0.0.1}}}}
routes:
  - {{id: people, match: {{path: /chain}}, to: web, token: {{issuer: corp, audience: shop-web}}}}
""",
    "up.yaml": """
apps:
  web: {{run: [python, app.py, web, {directory}]}}
  orders: {{run: [python, app.py, orders, {directory}]}}
  reports: {{run: [python, app.py, reports, {directory}]}}
  thief: {{run: [python, app.py, thief, {directory}]}}
gateways: [edge]
""",
}
PEOPLE: Final = {
    "ada": {"email": "ada@example.com", "email_verified": True},
    "bob": {"email": "bob@example.com", "email_verified": True},
    "eve": {"email": "eve@example.com", "email_verified": False},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service was answered."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: str

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def error(self) -> str:
        """Of RFC 6749, or our code, where a proxy answers."""
        return str(self.document["error"])

    @property
    def token(self) -> str:
        assert self.status == 200, self
        return str(self.document["access_token"])


@dataclass
class Shop:
    """``with`` it: everything runs, and has everything that it is to have."""

    directory: Path
    provider: Provider
    gateway: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.intent = self.directory / "intent"
        said = {"issuer": self.provider.issuer, "keys": self.provider.keys, "gateway": self.gateway}
        for name, text in FILES.items():
            path = self.intent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(directory=self.directory, **said))
        (self.intent / "app.py").write_text(APP)

    def __enter__(self) -> Self:
        self.state = self.directory / "s"
        words = ["up", self.intent, "--state", self.state, "--output", "json"]
        self.up = Program(self.directory, "up", words)
        self._client = httpx.Client(trust_env=False, timeout=3 * PATIENCE)
        try:
            self.ready = self.up.ready(PATIENCE * 2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self.up.stop()

    @property
    def socket(self) -> str:
        """The server's, for operators."""
        return str(self.ready["server_socket"])

    @property
    def data(self) -> Path:
        """The server's directory."""
        return self.state / "server"

    def operate(self, method: str, request: str, **asked: Any) -> Any:
        """What the server answers its operator (``TokensAdmin``)."""

        async def ask() -> Any:
            with closing(unix_channel(Path(self.socket))) as channel:
                client = Client(channel, tokens_pb2.DESCRIPTOR.services_by_name["TokensAdmin"])
                return await client.unary(method, getattr(tokens_pb2, request)(**asked), timeout=PATIENCE)

        return asyncio.run(ask())

    def revoke(self, by: str, value: str) -> None:
        """As an operator."""
        self.operate("Revoke", "RevokeTokensRequest", by=by, value=value, reason="a test")

    def as_service(self, name: str, url: str, **told: Any) -> Answer:
        """What a service is answered by another: ``form``, ``token``, ``headers``, ``method``."""
        port = (self.directory / f"{name}.port").read_text()
        told = {"url": url, **told}
        answer = self._client.post(f"http://127.0.0.1:{port}/do", json=told)
        return Answer(*answer.json())

    def ask_token(self, name: str, **form: Any) -> Answer:
        """What the token service answers a service."""
        return self.as_service(name, TOKENS, form=form)

    def mint(self, name: str = "web", audience: str = "orders", scope: str = "order:read") -> Answer:
        return self.ask_token(name, grant_type="client_credentials", audience=audience, scope=scope)

    def as_person(self, token: str = "") -> Answer:
        """What somebody outside is answered at the gateway."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.gateway}/chain"
        answer = self._client.get(url, headers=headers)
        return Answer(answer.status_code, dict(answer.headers), answer.text)

    def logins_count(self) -> None:
        """Keys of the provider and of our own have reached everybody."""
        self.provider.wait()
        until(
            lambda: self.as_person(self.provider.login("ada", "shop-web")).status == 200,
            lambda: f"{self.as_person(self.provider.login('ada', 'shop-web'))}: {self.up.said}",
            PATIENCE * 2,
        )


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says, believed as it is."""
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
