"""requests-oauthlib, as it is: a backend application gets a token and sends it along."""

import json
import sys

from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests_oauthlib import OAuth2Session


class Api(BaseAdapter):
    """Notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = ""

    def send(self, request: PreparedRequest, **_) -> Response:
        self.shown = request.headers["Authorization"]
        response = Response()
        response.status_code, response._content, response.request = 200, b"{}", request
        return response

    def close(self):
        pass


def main() -> None:
    client_id, base, *files = sys.argv[1:]
    trust = {"cert": files[0], "verify": files[1]} if files else {}
    session = OAuth2Session(client=BackendApplicationClient(client_id, scope=["report:read"]))
    token = session.fetch_token(f"{base}/oauth2/token", include_client_id=True, audience="reports", **trust)
    api = Api()
    session.mount("https://reports", api)
    session.get("https://reports/monthly")
    said = {"scope": token["scope"], "same": api.shown == f"Bearer {token['access_token']}"}
    try:
        session.fetch_token(f"{base}/oauth2/token", include_client_id=True, audience="ledger", **trust)
    except OAuth2Error as error:
        said["refused"] = [error.error, error.description.split()[0]]
    print(json.dumps(said))


main()
