"""Failures of who was called, of who calls, and of the conversation between them."""

from __future__ import annotations

from typing import Final

from vestibule.failures.failure import Failure, Sign
from vestibule.failures.layers import Layer
from vestibule.failures.symptom import Side

SERVING: Final = (
    Failure(
        name="tunnel-asked",
        layer=Layer.CLIENT,
        title="The app asked its sidecar for a tunnel",
        meaning="An `https://` URL, or gRPC, through a proxy setting asks for CONNECT. The sidecar "
        "does not open tunnels that it cannot look into.",
        confirm=("The URL that the app calls.",),
        fix="Call `http://SERVICE`: the sidecar speaks TLS. For gRPC, use the address in "
        "VESTIBULE_UPSTREAM_SERVICE.",
        example='501 {"error": "VST3003", …}',
        signs=(
            Sign(code=frozenset({"VST3003"})),
            Sign(text=r"Received HTTP code 501 from proxy after CONNECT"),
        ),
    ),
    Failure(
        name="not-http",
        layer=Layer.CLIENT,
        title="The service speaks TCP, and was called by HTTP",
        meaning="All ports of the called service are TCP ports: they have an address of their own "
        "beside the app.",
        confirm=("VESTIBULE_UPSTREAM_SERVICE in the environment of the app.",),
        fix="Connect to the address in VESTIBULE_UPSTREAM_SERVICE.",
        example='400 {"error": "VST3004", …}',
        signs=(Sign(code=frozenset({"VST3004"})),),
    ),
    Failure(
        name="client-left",
        layer=Layer.CLIENT,
        title="The caller left before the answer",
        meaning="The connection or the request was given up by who asked: its timeout is shorter than"
        " the answer takes, or it ended.",
        confirm=("The duration in the record is the caller's patience.",),
        fix="Give the client more time than the intent's `timeout`, or mend what makes the callee slow.",
        example="0 DC downstream_remote_disconnect",
        signs=(
            Sign(flags=frozenset({"DC", "DR"})),
            Sign(
                details=("downstream_remote_disconnect", "downstream_local_disconnect", "http2.remote_reset")
            ),
        ),
    ),
    Failure(
        name="request-malformed",
        layer=Layer.CLIENT,
        title="The request breaks HTTP",
        meaning="Headers that are too large, no host, an old version of HTTP, or bytes that are no request.",
        confirm=("The details of the record name the fault.",),
        fix="Mend the client, or let it send less.",
        example="400 DPE http1.codec_error",
        signs=(
            Sign(flags=frozenset({"DPE", "IH"})),
            Sign(code=frozenset({"VST3015"})),
            Sign(
                details=(
                    "low_version",
                    "missing_host_header",
                    "http1.",
                    "http2.",
                    "request_headers_too_large",
                )
            ),
            Sign(status=frozenset({431})),
        ),
    ),
    Failure(
        name="idle-stream",
        layer=Layer.LIMITS,
        title="Nothing was sent for too long",
        meaning="Neither side sent anything on the stream for as long as the proxy waits.",
        confirm=("The duration in the record.",),
        fix="Send something now and then (pings), or have the route wait longer.",
        example="504 SI stream_idle_timeout",
        signs=(Sign(flags=frozenset({"SI"})), Sign(details=("stream_idle_timeout",))),
    ),
    Failure(
        name="connection-too-old",
        layer=Layer.LIMITS,
        title="The stream or connection has lasted as long as it may",
        meaning="Connections end before their certificates do, so that nobody goes on with an "
        "identity that was taken away.",
        confirm=("The duration in the record; docs/sidecar.md has the ages.",),
        fix="Let the client connect again: streams that last for hours have to.",
        example="DT duration_timeout",
        signs=(
            Sign(flags=frozenset({"DT", "UMSDR"})),
            Sign(
                details=(
                    "duration_timeout",
                    "upstream_max_stream_duration_reached",
                    "max_connection_duration",
                )
            ),
            Sign(code=frozenset({"VST2324"})),
        ),
    ),
    Failure(
        name="timeout",
        layer=Layer.LIMITS,
        title="No answer within the route's timeout",
        meaning="The callee took the request and had not answered when the time of the route was "
        "over: the app is slow, or the time is too short for what it does.",
        confirm=("The callee's record of the same request id has the app's duration.",),
        fix="Mend what makes the app slow, or raise `timeout` of the route.",
        example="504 UT response_timeout",
        signs=(
            Sign(flags=frozenset({"UT"})),
            Sign(
                details=(
                    "response_timeout",
                    "upstream_response_timeout",
                    "upstream_per_try_timeout",
                    "max_duration_timeout",
                    "request_overall_timeout",
                )
            ),
            Sign(code=frozenset({"VST3012"})),
            Sign(text=r"upstream request timeout|504 Gateway Time-?out|DEADLINE_EXCEEDED|deadline exceeded"),
        ),
    ),
    Failure(
        name="retries-exhausted",
        layer=Layer.APPLICATION,
        title="Every try failed",
        meaning="The request was sent as often as the route permits, to no avail. What the last try "
        "met stands beside it.",
        confirm=("The callee's records of the same request id: one for each try that arrived.",),
        fix="Mend what the tries met; more tries seldom help.",
        example="503 URX via_upstream",
        signs=(Sign(flags=frozenset({"URX"})),),
    ),
    Failure(
        name="app-broke-off",
        layer=Layer.APPLICATION,
        title="The app closed the connection without answering",
        meaning="The callee's sidecar sent the request to the app, which ended the connection: it "
        "crashed, was restarted, or closes idle connections just when they are used.",
        confirm=("The app's own log at that time.",),
        fix="Mend the app. If it only closes idle connections, retry `connect-failure` and `reset` of"
        " safe methods.",
        example="503 UC upstream_reset_before_response_started{connection_termination}, said by the "
        "callee's proxy",
        signs=(Sign(flags=frozenset({"UC", "UR"}), side=Side.CALLEE),),
    ),
    Failure(
        name="connection-broke-off",
        layer=Layer.NETWORK,
        title="The connection ended before the answer",
        meaning="The callee's side closed it: its sidecar was stopped or replaced, or refused the "
        "certificate after the handshake, as TLS 1.3 does. If the callee has a record of the "
        "request id, its app broke off.",
        confirm=(
            "The callee's records: one of the same request id, or a refused connection at the same time.",
        ),
        fix="With a record of the callee, read that one. Without any, look at the callee's sidecar.",
        example="503 UC upstream_reset_before_response_started{connection_termination}, said by the "
        "caller's proxy",
        signs=(
            Sign(flags=frozenset({"UC", "UR", "LR"})),
            Sign(
                text=r"reset reason: (connection termination|remote reset|protocol error)|"
                r"Connection reset by peer|ECONNRESET|RemoteProtocolError|"
                r"Server disconnected|Empty reply from server"
            ),
        ),
    ),
    Failure(
        name="protocols-differ",
        layer=Layer.APPLICATION,
        title="The app speaks another protocol than the intent says",
        meaning="HTTP/1.1 to a port that speaks HTTP/2, or the other way round; or no HTTP at all.",
        confirm=("`protocol` of the port in the service's file, and what the app listens for.",),
        fix="Write what the app speaks: `http`, `http2`, `grpc` or `tcp`.",
        example="502 UPE upstream_reset_before_response_started{protocol_error}",
        signs=(
            Sign(flags=frozenset({"UPE"})),
            Sign(details=("upstream_reset_before_response_started{protocol_error",)),
        ),
    ),
    Failure(
        name="credential-not-injected",
        layer=Layer.TOKEN,
        title="The sidecar has no token or credential to send along",
        meaning="The intent has it add one to these calls, and it could not get it.",
        confirm=("The log of the caller's sidecar says what the token service or the file answered.",),
        fix="Let the sidecar reach the token service; may the caller mint this token (`vestibule explain`)?",
        example="401 failed_to_inject_credential",
        signs=(
            Sign(details=("failed_to_inject_credential",)),
            Sign(code=frozenset({"VST3033", "VST6102", "VST6103"})),
        ),
    ),
    Failure(
        name="app-answered-error",
        layer=Layer.APPLICATION,
        title="The app answered with an error",
        meaning="The call arrived, and the called app itself answered with this status. The mesh only"
        " carried it.",
        confirm=("The record's details are `via_upstream`, at the callee as well.", "The app's own log."),
        fix="Ask the team that owns the called service (`owner` in its file).",
        example="500 via_upstream",
        signs=(Sign(details=("via_upstream",), status=frozenset(range(400, 600))),),
    ),
)
