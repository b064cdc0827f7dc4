"""Error codes of servers that end mutual TLS by the SDK."""

from vestibule.errors import Fault, Kind, define

NO_CALLER = define(
    "VST2440",
    "caller-not-told",
    Kind.UNAUTHENTICATED,
    Fault.CALLER,
    meaning="A request does not say who calls: the program is not served by one of the SDK's servers "
    "(vestibule.sdk.uvicorn, hypercorn, gunicorn, grpclib, grpcio, streams), so nobody verified the caller.",
    advice="Serve the program by one of them; behind a sidecar, read x-forwarded-client-cert instead.",
)
