"""Authlib, as it is: its httpx client gets a token, sends it along, gives it in exchange, introspects and revokes."""

import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from authlib.integrations.httpx_client import OAuth2Client, OAuthError

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def session(client_id: str, pem: str, bundle: str) -> OAuth2Client:
    context = ssl.create_default_context(cafile=bundle)
    context.load_cert_chain(pem)
    return OAuth2Client(client_id, token_endpoint_auth_method="none", verify=context, timeout=30)


def main() -> None:
    web, web_pem, bundle, base, orders, orders_pem, reports, reports_pem, id_token = sys.argv[1:]
    endpoint = f"{base}/oauth2/token"
    said = {}

    first = session(web, web_pem, bundle)
    metadata = first.request(
        "GET", f"{base}/.well-known/oauth-authorization-server", withhold_token=True
    ).json()
    said["issuer"] = metadata["issuer"]
    own = first.fetch_token(
        endpoint, grant_type="client_credentials", audience="reports", scope="report:read"
    )
    said["own"] = {name: own[name] for name in ("token_type", "expires_in", "scope")}
    said["shown"] = shown(first)
    try:
        session(web, web_pem, bundle).fetch_token(
            endpoint, grant_type="client_credentials", audience="ledger"
        )
    except OAuthError as error:
        said["refused"] = [error.error, error.description.split()[0]]

    login = session(web, web_pem, bundle).fetch_token(
        endpoint, grant_type=JWT_BEARER, assertion=id_token, audience="orders", scope="order:read report:read"
    )
    handed_on = session(orders, orders_pem, bundle).fetch_token(
        endpoint,
        grant_type=EXCHANGE,
        subject_token=login["access_token"],
        subject_token_type=ACCESS_TOKEN,
        audience="reports",
        scope="report:read",
    )
    said["issued"] = handed_on["issued_token_type"]
    last = session(reports, reports_pem, bundle)
    text = handed_on["access_token"]
    said["inspected"] = last.introspect_token(f"{base}/oauth2/introspect", token=text).json()
    first.revoke_token(f"{base}/oauth2/revoke", token=own["access_token"])
    said["revoked"] = last.introspect_token(f"{base}/oauth2/introspect", token=own["access_token"]).json()
    print(json.dumps(said))


def shown(client: OAuth2Client) -> str:
    """What an API sees of a request that is made with the client."""
    seen = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["authorization"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Api) as api:
        serving = threading.Thread(target=api.handle_request)
        serving.start()
        client.get(f"http://127.0.0.1:{api.server_port}/monthly")
        serving.join()
    return seen[0].split(".")[0]


main()
