"""Reports would like to read payments; no rule of payments names it, so it gets to see 403."""

from plain_http import call, serve


def answer(method, path, headers):
    status, payment = call("GET", "http://payments/v1/charges/7", headers.get("x-request-id"))
    return status, {"service": "reports", "payment": payment}


serve("reports", answer)
