"""Meshes of any size, made for measuring: who calls whom is drawn once, from a seed."""

from __future__ import annotations

import random

from vestibule.intent import Intent, load_files
from vestibule.records import Address, Instance
from vestibule.spiffe import SpiffeId

CALLERS = 10
"""Services that may call a service, on average."""
BANNED = "/banned-"
"""How the one identity ends that every service denies, before the number that changes."""
MESHES = {
    "routes": "mesh: bench\ntrust_domain: bench.example\nenvironment: prod\ndefaults: {timeout: %ds}\n",
    "policy": "mesh: bench\ntrust_domain: bench.example\nenvironment: prod\n"
    f"roles: {{banned: ['spiffe://bench.example{BANNED}%d']}}\n",
}
"""With a number that a commit changes: a timeout of all calls, or whom all services deny."""


def service_name(number: int) -> str:
    return f"s{number:04}"


def files(
    services: int, *, number: int = 15, hub: bool = False, seed: int = 7, change: str = "routes"
) -> dict[str, bytes]:
    """An intent's files.  With ``hub`` there is one service more, which all others may call.

    ``change`` is what a commit of another ``number`` changes (``MESHES``).
    """
    drawn = random.Random(seed)
    found = {"mesh.yaml": (MESHES[change] % number).encode()}
    names = [service_name(number) for number in range(services)]
    for name in names:
        callers = sorted(drawn.sample(names, min(CALLERS, services)))
        found[f"services/{name}.yaml"] = service(name, callers) + (DENYING if change == "policy" else b"")
    if hub:
        found["services/hub.yaml"] = service("hub", names)
    return found


DENYING = b"deny:\n  - {id: banned, from: ['role:banned']}\n"


def service(name: str, callers: list[str], path: str = "/v1/**") -> bytes:
    lines = [f"service: {name}", "ports: {http: {app: 8080, protocol: http}}", "allow:"]
    lines.append(f"  - {{id: callers, from: [{', '.join(callers)}], methods: [GET, POST], paths: [{path}]}}")
    return ("\n".join(lines) + "\n").encode()


def read(written: dict[str, bytes]) -> Intent:
    """The intent of these files, which must be good."""
    loaded = load_files(written)
    if loaded.intent is None:
        raise SystemExit(f"the benchmark's own intent is refused: {loaded.problems[0]}")
    return loaded.intent


def instance(intent: Intent, service: str, number: int = 0, agent: SpiffeId | None = None) -> Instance:
    """One instance of a service; what it is called and where it is follow from the numbers."""
    identity = intent.services[service].spiffe_id
    at = 10_000 + sum(service.encode()) * 31 % 20_000
    host = f"10.{number // 250}.{number % 250}.{at % 250 + 1}"
    return Instance(
        id=f"{service}-{number}",
        service=service,
        spiffe_id=identity,
        agent_id=agent or SpiffeId.parse("spiffe://bench.example/spire/agent/bench"),
        ingress={"http": Address(host=host, port=at)},
        apps={"http": Address(host="127.0.0.1", port=8080)},
        egress=Address(host="127.0.0.1", port=at + 1),
    )
