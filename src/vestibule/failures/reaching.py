"""Failures on the way: names, networks, routes and instances."""

from __future__ import annotations

from typing import Final

from vestibule.failures.failure import Failure, Sign
from vestibule.failures.layers import Layer
from vestibule.failures.symptom import Side

REACHING: Final = (
    Failure(
        name="name-not-found",
        layer=Layer.DNS,
        title="A host's name is not found",
        meaning="The resolver that the proxy asks knows no address for the name.",
        confirm=("`getent hosts NAME` on the node of the caller's sidecar.",),
        fix="Correct the name in egress/NAME.yaml, or the resolver of the node. Services of the mesh "
        "have no names in DNS: call them through the sidecar.",
        example="503 DF dns_resolution_failure",
        signs=(
            Sign(flags=frozenset({"DF"})),
            Sign(details=("dns_resolution_failure",)),
            Sign(code=frozenset({"VST3031"})),
            Sign(
                text=r"Could not resolve host|Name or service not known|"
                r"Temporary failure in name resolution|no such host|getaddrinfo|"
                r"ENOTFOUND|nodename nor servname"
            ),
        ),
    ),
    Failure(
        name="unknown-service",
        layer=Layer.ROUTING,
        title="No service has this name",
        meaning="The caller's sidecar has no destination of the name that was called: it is spelled "
        "differently in the intent, or not there at all.",
        confirm=(
            "`vestibule explain CALLER NAME` says which names are near.",
            "`vestibule validate` reads the intent again.",
        ),
        fix="Correct the name in the call, or write the service into the intent.",
        example='404 {"error": "VST3002", …}',
        signs=(Sign(code=frozenset({"VST3002"})),),
    ),
    Failure(
        name="route-missing",
        layer=Layer.ROUTING,
        title="No route takes the request",
        meaning="The host is known, and none of its routes fits path, method or headers of the request.",
        confirm=("`vestibule explain CALLER SERVICE METHOD PATH` walks through the routes.",),
        fix="Add a route to the service's file, or a last one for `/**`.",
        example="404 NR route_not_found",
        signs=(
            Sign(details=("route_not_found",)),
            Sign(flags=frozenset({"NR"}), status=frozenset({404})),
            Sign(code=frozenset({"VST3034"})),
        ),
    ),
    Failure(
        name="routes-not-received",
        layer=Layer.CONTROL_PLANE,
        title="The proxy has not got its routes",
        meaning="A listener is there without the table of routes that belongs to it: the proxy "
        "refused it, or has never reached the control plane.",
        confirm=("`vestibule status` shows what each proxy has confirmed, and what it refused.",),
        fix="If it was refused, that is a bug of ours: the message is in the sidecar's log. Else let "
        "the agent reach the server.",
        example="404 NR route_configuration_not_found",
        signs=(Sign(details=("route_configuration_not_found",)),),
    ),
    Failure(
        name="filter-configuration-missing",
        layer=Layer.CONTROL_PLANE,
        title="The proxy has not got its rules",
        meaning="A filter that decides about calls has no configuration: the proxy refuses everything"
        " until it has.",
        confirm=("`vestibule status` shows what each proxy has confirmed, and what it refused.",),
        fix="Let the agent reach the server. What was refused stands in the sidecar's log.",
        example="500 NFCF filter_config_not_found",
        signs=(Sign(flags=frozenset({"NFCF"})), Sign(code=frozenset({"VST3014"}))),
    ),
    Failure(
        name="destination-missing",
        layer=Layer.CONTROL_PLANE,
        title="A route leads to a destination that the proxy does not have",
        meaning="The cluster that the route names has not arrived: the proxy is behind, or refused it.",
        confirm=("`vestibule status` shows what each proxy has confirmed, and what it refused.",),
        fix="Let the agent reach the server; `vestibule rollout show` tells whether the newest "
        "intent is out.",
        example="503 NC cluster_not_found",
        signs=(Sign(flags=frozenset({"NC"})), Sign(details=("cluster_not_found",))),
    ),
    Failure(
        name="no-instance",
        layer=Layer.DISCOVERY,
        title="No instance can take the call",
        meaning="The destination is known, and none of its instances is registered and well: not "
        "started, failing its health check, or set aside because it failed too often. With "
        "versions, none of the version that was drawn.",
        confirm=("`vestibule status` lists the instances with their health.",),
        fix="Start the service, or mend what its health check complains about. A share of a split "
        "that leads to a version without instances belongs taken out.",
        example="503 UH no_healthy_upstream",
        signs=(
            Sign(flags=frozenset({"UH"})),
            Sign(details=("no_healthy_upstream",)),
            Sign(code=frozenset({"VST3011"})),
            Sign(text=r"no healthy upstream"),
        ),
    ),
    Failure(
        name="app-not-listening",
        layer=Layer.APPLICATION,
        title="The callee's app does not listen",
        meaning="The call came as far as the callee's own sidecar; behind it nobody takes the "
        "connection: the app is down, restarting, or listens at another port.",
        confirm=(
            "`ss -ltn` on the callee's node: does somebody listen at the app's port?",
            "The app's own log.",
        ),
        fix="Start the app at the port that it is told (`PORT`), or say where it listens (`--app-port`).",
        example="503 UF "
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused},"
        " said by the callee's proxy",
        signs=(
            Sign(transport=r"Connection[_ ]refused|delayed[_ ]connect[_ ]error", side=Side.CALLEE),
            Sign(flags=frozenset({"UF"}), side=Side.CALLEE),
            Sign(code=frozenset({"VST3013"})),
        ),
    ),
    Failure(
        name="connection-refused",
        layer=Layer.NETWORK,
        title="Nobody listens at the address",
        meaning="The machine answers, and says that nobody listens at the port: the callee's sidecar "
        "has just ended, a wrong port, or an app that calls around its sidecar.",
        confirm=(
            "`ss -ltn` on the callee's node.",
            "`vestibule status` shows the address that is registered.",
        ),
        fix="Start what should listen there. From an app, call `http://SERVICE` through the sidecar.",
        example="503 UF "
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused},"
        " said by the caller's proxy",
        signs=(
            Sign(transport=r"Connection[_ ]refused"),
            Sign(text=r"Connection refused|ECONNREFUSED|connect: connection refused"),
        ),
    ),
    Failure(
        name="network-unreachable",
        layer=Layer.NETWORK,
        title="The network does not lead there",
        meaning="No way to the address, or packets that are dropped on the way: a firewall, a wrong "
        "address, a partition.",
        confirm=(
            "From the caller's node: `ip route get ADDRESS`, then a TCP connection to address and port.",
        ),
        fix="Open the way for the port of the callee's sidecar, or have the callee register an "
        "address that others can reach (`--ingress-address`).",
        example="503 UF "
        "upstream_reset_before_response_started{remote_connection_failure|immediate_connect_error:_Network_is_unreachable}",
        signs=(
            Sign(
                transport=r"(Network|Host|No route to host)[_ ]?(is[_ ])?unreachable|"
                r"No[_ ]route[_ ]to[_ ]host"
            ),
            Sign(details=("upstream_reset_before_response_started{connection_timeout", "connect_timeout")),
            Sign(transport=r"connect(ion)?[_ ]time(d[_ ])?out"),
            Sign(
                text=r"Network is unreachable|No route to host|EHOSTUNREACH|ENETUNREACH|"
                r"Connection timed out|ETIMEDOUT"
            ),
        ),
    ),
    Failure(
        name="connection-failed",
        layer=Layer.NETWORK,
        title="No connection came about",
        meaning="The proxy could not connect to the instance that it chose; it gives no closer reason.",
        confirm=("A TCP connection from the caller's node to the registered address (`vestibule status`).",),
        fix="Look at the callee's sidecar: does it run, and is its port open from here?",
        example="503 UF upstream_reset_before_response_started{connection_failure}",
        signs=(
            Sign(flags=frozenset({"UF"})),
            Sign(code=frozenset({"VST3010", "VST3030"})),
            Sign(text=r"reset reason: (remote |local )?connection failure"),
        ),
    ),
)
