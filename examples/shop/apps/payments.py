"""Payments: tells who called, as its sidecar says; nothing a caller sends can forge it.

Its database's password is kept by the secret manager: asked for by the plain name, in plain HTTP, without a login.
The sidecar proves who asks, and the intent's rules (secrets/payments.yaml) say who may.
"""

import secrets
import threading
import time

from plain_http import call, serve

PASSWORD = "http://secrets/v1/secret/data/payments/database"
database = {}


def sign_in():
    """Read the password; where there is none yet, make one, which fails if somebody else was faster."""
    while "password" not in database:
        status, told = call("GET", PASSWORD)
        if status == 200:
            database.update(told["data"]["data"])
        elif status == 404:
            made = {"password": secrets.token_urlsafe(32)}
            call("POST", PASSWORD, body={"data": made, "options": {"cas": 0}})
        else:
            time.sleep(0.5)


def answer(method, path, headers):
    caller = headers.get("x-forwarded-client-cert")
    signed_in = "password" in database
    return 200, {"service": "payments", "did": f"{method} {path}", "caller": caller, "database": signed_in}


threading.Thread(target=sign_in, daemon=True).start()
serve("payments", answer)
