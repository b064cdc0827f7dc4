"""The storefront: asks orders, by name."""

from plain_http import call, serve


def answer(method, path, headers):
    status, orders = call("GET", "http://orders/orders/42", headers.get("x-request-id"))
    return status, {"service": "web", "orders": orders}


serve("web", answer)
