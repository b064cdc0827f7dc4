"""Payments: tells who called, as its sidecar says; nothing a caller sends can forge it."""

from plain_http import serve


def answer(method, path, headers):
    caller = headers.get("x-forwarded-client-cert")
    return 200, {"service": "payments", "did": f"{method} {path}", "caller": caller}


serve("payments", answer)
