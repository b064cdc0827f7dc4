"""The same policy compiled into a proxy, asked over ext_authz, and what decides there: the door, grpclib, OPA-Envoy.

``compiled`` and ``central`` are the filters of a mesh that says nothing of ``decide``, and of one that says ``decide:
central``.  ``agent``, ``grpclib`` and ``opa`` are one plain filter of ext_authz, as anybody would write it, before the
agent's door, the same engine on grpclib, and OPA.

One static Envoy that answers by itself, so that nothing else is measured: a listener for each way to decide, without
TLS (whose cost is everybody's), the caller being put into the question.  Throughput in alternating short runs; then a
constant thousand requests a second: time end to end, in the handler and in the evaluation, as OPA publishes them.

OPA-Envoy takes part where `--opa PROGRAM` names one.  Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from _comparison import machine
from _processes import cpu_seconds

if TYPE_CHECKING:
    from google.protobuf.message import Message

RULES: Final = 100
RATE: Final = 1000
COMPILED_FACTOR: Final = 5.0
PATH: Final = f"/v1/things{RULES - 1}/x"
WAYS: Final = ("none", "compiled", "central", "agent", "grpclib", "opa")
WHO_DECIDES: Final = {"central": "agent"}
"""Where that is not a way's own service."""


# ------------------------------------------------------------------------------------ what decides


def policy() -> Any:
    from vestibule.policy import PathPattern, PortPolicy, Rule

    allow = tuple(
        Rule(
            name=f"payments/r{number}",
            callers=(),
            anyone=True,
            methods=frozenset({"GET"}),
            paths=(PathPattern.parse(f"/v1/things{number}/**"),),
        )
        for number in range(RULES)
    )
    return PortPolicy(service="payments", port="http", allow=allow)


REGO: Final = """\
package envoy.authz
import rego.v1
default allow := false
prefixes := {%s}
allow if {
  input.attributes.request.http.method == "GET"
  prefixes[concat("/", array.slice(split(input.attributes.request.http.path, "/"), 0, 3))]
}
"""


def serve(path: Path, report: Path, *, fast: bool) -> None:
    """The decision service as a process of its own; its times are in ``report`` when it is told to end."""
    import uvloop
    from envoy.service.auth.v3 import external_auth_pb2 as pb

    from vestibule.doors.checks import Answering
    from vestibule.doors.ext_authz import MAX_MESSAGE, METHOD, AuthorizationDoor
    from vestibule.net.grpc_server import Fast, GrpcServer
    from vestibule.policy.deciders import Decider
    from vestibule.policy.engine import Engine

    handler: list[float] = []
    evaluation: list[float] = []

    def timed(times: list[float], work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(given: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(given)
            finally:
                times.append(time.perf_counter() - started)

        return run

    engine = Engine(policy())
    decider = Decider(engine, "example.org")
    engine.decide = timed(evaluation, engine.decide)  # type: ignore[method-assign]
    answering = Answering(lambda _service, _port: decider, explains=False)
    # Two messages, one after the other, are one: the certificate that there is not, and which port is meant.
    caller = pb.CheckRequest()
    caller.attributes.source.principal = "spiffe://example.org/orders"
    caller.attributes.context_extensions.update({"vestibule.service": "payments", "vestibule.port": "http"})
    known = caller.SerializeToString()
    answer = answering.answer
    answering.answer = timed(handler, lambda data: answer(known + data))  # type: ignore[method-assign]

    async def main() -> None:
        door = AuthorizationDoor(lambda _: answering).servable()
        chosen = Fast(path=METHOD, answer_of=lambda _: answering.answer, max_message=MAX_MESSAGE)
        server = GrpcServer([door], fast=chosen if fast else None)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        await server.listen(sock)
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, end.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: (handler.clear(), evaluation.clear()))
        await end.wait()
        report.write_text(json.dumps({"handler": shown(handler), "evaluation": shown(evaluation)}))
        await server.close()

    uvloop.run(main())


def shown(seconds: list[float]) -> dict[str, float]:
    """Percentiles in microseconds."""
    ordered = sorted(seconds) or [0.0]
    return {f"p{p:g}": ordered[int((len(ordered) - 1) * p / 100)] * 1e6 for p in (50, 99, 99.9)}


# ------------------------------------------------------------------------------------------- Envoy


def envoy_config(ports: dict[str, int], services: dict[str, dict[str, Any]], admin: int) -> dict[str, Any]:
    from google.protobuf import json_format

    from vestibule.envoy import central, rbac
    from vestibule.envoy.names import DECISIONS_CLUSTER
    from vestibule.envoy.protos import packed
    from vestibule.intent.model import Decide

    def filter_of(config: Message) -> list[dict[str, Any]]:
        typed = json_format.MessageToDict(packed(config), preserving_proto_field_name=True)
        return [{"name": "policy", "typed_config": typed}]

    kind = "type.googleapis.com/envoy.extensions.filters"
    asked = central.decided_where(policy(), Decide.CENTRAL)
    assert asked is not None
    before: dict[str, list[dict[str, Any]]] = {
        "none": [],
        "compiled": filter_of(rbac.http_rbac(policy())),
        "central": filter_of(central.both(rbac.http_rbac(asked.local), policy())),
    }
    for name in services:
        config = {
            "@type": f"{kind}.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": name}, "timeout": "5s"},
            "allowed_headers": {"patterns": [{"exact": "x-request-id"}]},
        }
        before[name] = [{"name": "ext_authz", "typed_config": config}]
    listeners = [_listener(name, port, before[name], kind) for name, port in ports.items()]
    return {
        "admin": {"address": _tcp(admin)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                *(_cluster(name, address) for name, address in services.items()),
                _cluster(DECISIONS_CLUSTER, services[WHO_DECIDES["central"]]),
            ],
        },
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, port: int, filters: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    said = {"status": 200, "body": {"inline_string": "ok"}}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [*filters, router],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": said}],
                }
            ]
        },
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    return {"name": name, "address": _tcp(port), "filter_chains": [chain]}


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


# -------------------------------------------------------------------------------------------- load


def throughput(port: int, seconds: float) -> float:
    """Requests a second; every one must be answered with 200."""
    command = ["wrk", "-t1", "-c32", f"-d{seconds:.0f}s", f"http://127.0.0.1:{port}{PATH}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if "Non-2xx" in said:
        raise SystemExit(f"not every answer was a 200:\n{said}")
    return float(said.partition("Requests/sec:")[2].split()[0])


async def constant(port: int, seconds: float) -> list[float]:
    """Times of requests that begin at a constant rate over ten connections, whether or not others are answered."""
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
    free: asyncio.Queue[Any] = asyncio.Queue()
    for line in lines:
        free.put_nowait(line)
    times: list[float] = []
    request = f"GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n".encode()

    async def one(due: float) -> None:
        reader, writer = line = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        times.append(time.perf_counter() - due)
        free.put_nowait(line)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * seconds)):
            due = started + number / RATE
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(due))
    for _, writer in lines:
        writer.close()
    return times


# -------------------------------------------------------------------------------------------- whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--opa", type=Path, help="the program opa-envoy")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), Path(given.serve[1]), fast=given.serve[2] == "fast")
        return 0
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk (Debian: apt-get install wrk)")
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))
    try:
        with ExitStack() as running:
            return measure(directory, running, given)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def measure(directory: Path, running: ExitStack, given: argparse.Namespace) -> int:
    from vestibule.proxy.binary import find_envoy

    logs = count()

    def start(*command: str) -> subprocess.Popen[bytes]:
        log = running.enter_context((directory / f"{next(logs)}.log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        running.callback(process.wait)
        running.callback(process.terminate)
        return process

    processes: dict[str, subprocess.Popen[bytes]] = {}
    services: dict[str, dict[str, Any]] = {}
    for name, kind in (("agent", "fast"), ("grpclib", "slow")):
        place = directory / f"{name}.sock"
        me = (sys.executable, __file__, "--serve", str(place), str(directory / f"{name}.json"), kind)
        processes[name] = start(*me)
        services[name] = {"pipe": {"path": str(place)}}
    if given.opa is not None:
        prefixes = ", ".join(f'"/v1/things{number}"' for number in range(RULES))
        (directory / "policy.rego").write_text(REGO % prefixes)
        port = free_port()
        told = (
            f"plugins.envoy_ext_authz_grpc.addr=127.0.0.1:{port}",
            "plugins.envoy_ext_authz_grpc.path=envoy/authz/allow",
        )
        sets = [part for each in told for part in ("--set", each)]
        rest = ("--addr", f"127.0.0.1:{free_port()}", "--log-level", "error", str(directory / "policy.rego"))
        processes["opa"] = start(str(given.opa), "run", "--server", *sets, *rest)
        services["opa"] = _tcp(port)
    ways = [each for each in WAYS if each != "opa" or each in services]
    asking = {each: processes[who] for each in ways if (who := WHO_DECIDES.get(each, each)) in processes}
    ports = {name: free_port() for name in ways}
    (directory / "envoy.json").write_text(json.dumps(envoy_config(ports, services, free_port())))
    envoy = (
        str(find_envoy()),
        "-c",
        str(directory / "envoy.json"),
        "--concurrency",
        "1",
        "--disable-hot-restart",
    )
    start(*envoy, "-l", "error")
    for name in ways:
        wait_for(ports[name])
    found = {name: [] for name in ways}  # type: dict[str, list[float]]
    cpu = dict.fromkeys(asking, 0.0)
    for number in range(given.rounds):
        for name in ways if number % 2 else reversed(ways):
            before = cpu_seconds([asking[name].pid]) if name in asking else 0.0
            rps = throughput(ports[name], given.seconds)
            found[name].append(rps)
            if name in asking:
                cpu[name] += (cpu_seconds([asking[name].pid]) - before) / (rps * given.seconds)
    print(
        f"\n{RULES} rules, 32 connections, one Envoy worker; medians of {given.rounds} runs of {given.seconds:g} s"
    )
    for name in ways:
        each = f"{cpu[name] / given.rounds * 1e6:7.1f} us of the service per check" if name in cpu else ""
        print(f"  {name:9} {statistics.median(found[name]):9,.0f} rps  {each}")
    ratios = {
        name: statistics.median(a / b for a, b in zip(found["compiled"], found[name], strict=True))
        for name in asking
    }
    for name, ratio in ratios.items():
        print(f"  compiled / {name}: {ratio:.1f}x")
    print(f"\n{RATE} requests a second, open loop, 10 connections; us, p50 / p99 / p99.9")
    for name in ways:
        if name in ("agent", "grpclib"):
            processes[name].send_signal(signal.SIGUSR1)
        times = shown(asyncio.run(constant(ports[name], 5.0)))
        print(f"  {name:9} end to end {told_of(times)}")
    for name in ("agent", "grpclib"):
        processes[name].terminate()
        processes[name].wait()
        inside = json.loads((directory / f"{name}.json").read_text())
        print(f"  {name:9} handler    {told_of(inside['handler'])}")
        print(f"  {name:9} evaluation {told_of(inside['evaluation'])}")
    if ratios["central"] < COMPILED_FACTOR:
        print(
            f"compiled rules are less than {COMPILED_FACTOR:g} times as fast as the same asked over ext_authz"
        )
        return 1
    return 0


def told_of(times: dict[str, float]) -> str:
    return " / ".join(f"{each:,.1f}" for each in times.values())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    raise SystemExit(main())
