"""Orders: charges each order, at payments."""

from plain_http import call, serve


def answer(method, path, headers):
    status, payment = call("POST", "http://payments/v1/charges", headers.get("x-request-id"))
    caller = headers.get("x-forwarded-client-cert")
    return status, {"service": "orders", "order": path, "caller": caller, "payment": payment}


serve("orders", answer)
