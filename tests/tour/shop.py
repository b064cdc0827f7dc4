"""The example shop in a repository of its own, run by ``vestibule up --committed``, and what the tour does with it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.component.git_lab import Repository
from tests.e2e import front_door
from tests.e2e.front_door import Ended, Program, processes_of
from tests.whole_lines import whole_lines

from vestibule.calls.unix import unix_channel
from vestibule.cli.rollout import SERVICE as ROLLOUT
from vestibule.cli.rollout_report import document
from vestibule.cli.run_state import RunState
from vestibule.net.grpc import Client
from vestibule.observe.access_log import read
from vestibule.observe.access_record import AccessRecord
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2

SHOP: Final = Path(__file__).resolve().parents[2] / "examples" / "shop"
APP: Final = Path(__file__).with_name("payments.py")
NEAR: Final = "eu-west/a"
FAR: Final = "us-east/a"
PATIENCE: Final = 120.0
"""Seconds for what takes a moment on a machine that has nothing else to do."""
UP_YAML: Final = """\
apps:
  web: {run: [python3, apps/web.py]}
  orders: {run: [python3, apps/orders.py]}
  payments:
    run: [python3, apps/payments.py]
    env: {PLACE: v1-near}
    versions: {v2: {env: {PLACE: v2-near}}}
  reports: {run: [python3, apps/reports.py]}
"""
MESH: Final = (SHOP / "mesh.yaml").read_text() + "rollout: {watch: 1s}\n"
PAYMENTS: Final = """\
service: payments
owner: team-payments
ports: {http: {protocol: http}}
versions: [v1, v2]
allow:
  - {id: orders-pay, from: [orders], methods: [GET], paths: [/v1/**]}
  - {id: reports-read, from: [reports], methods: [GET], paths: [/v1/**]}
"""
"""What all steps have in common; each adds to it."""


def until(holds: Callable[[], Any], what: Callable[[], str] | str) -> Any:
    """The first true value."""
    return front_door.until(holds, what, PATIENCE)


def vestibule(*words: object) -> Ended:
    """Run a command."""
    return front_door.vestibule(*words, within=PATIENCE)


def canary(weight: int) -> str:
    """The routes with which so many of a hundred calls go to v2."""
    return f"routes: [{{id: canary, split: {{v1: {100 - weight}, v2: {weight}}}}}]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller got; status 0: the connection was cut."""

    status: int
    body: Any
    seconds: float

    @property
    def place(self) -> str:
        """Which instance of payments answered."""
        return str(self.body.get("place", "")) if isinstance(self.body, dict) else ""

    @property
    def error(self) -> str:
        """The code in what a proxy answered."""
        return str(self.body.get("error", "")) if isinstance(self.body, dict) else ""


@dataclass
class Load:
    """Calls that are made all the while."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(each.status != 200 for each in self.answers)


class Shop:
    """One run of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repository = Repository(directory / "repository")
        self.intent = self.repository.path / "mesh"
        shutil.copytree(SHOP, self.intent, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(APP, self.intent / "apps" / "payments.py")
        (self.repository.path / ".gitignore").write_text("seen-*\nill-*\n__pycache__\n")
        self.repository.commit(
            {
                "mesh/mesh.yaml": MESH,
                "mesh/up.yaml": UP_YAML,
                "mesh/services/payments.yaml": PAYMENTS + canary(0),
            },
            "The shop",
        )
        self.up: Program
        self.ready_after = 0.0
        self.egress: Mapping[str, str] = {}
        self.ingress: Mapping[str, Mapping[str, str]] = {}
        self.far: FarNode

    # ------------------------------------------------------------------------------------------- running

    def start(self) -> None:
        state = self.directory / "s"
        words = ("up", self.intent, "--committed", "--locality", NEAR, "--state", state, "--output", "json")
        self.up = Program(self.directory, "up", words)
        ready = self.up.ready(PATIENCE)
        self.ready_after = ready["ready_seconds"]
        self.egress, self.ingress = ready["egress"], ready["ingress"]
        note = RunState.read(state)
        assert note is not None
        self.note = note
        self.far = FarNode(self)

    def stop(self) -> None:
        """Everything ends, in order if it can."""
        try:
            if hasattr(self, "far"):
                self.far.stop()
            if hasattr(self, "up"):
                self.up.stop()
        finally:
            for pid in processes_of(self.directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @property
    def operator(self) -> tuple[str, Path]:
        return ("--server-socket", self.note.server_socket)

    # ----------------------------------------------------------------------------------- what is intended

    def write(self, files: Mapping[str, str]) -> None:
        """The work tree, without a commit."""
        for name, text in files.items():
            path = self.intent / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def push(self, subject: str, payments: str, more: Mapping[str, str] | None = None) -> str:
        """One commit in which payments has this beside what it always has; its id."""
        files = {"mesh.yaml": MESH, "services/payments.yaml": PAYMENTS + payments, **(more or {})}
        return self.repository.commit({f"mesh/{name}": text for name, text in files.items()}, subject)

    def commit(self, subject: str, payments: str, more: Mapping[str, str] | None = None) -> float:
        """The same, until it is the good one; the seconds until every proxy had acknowledged it."""
        version = self.push(subject, payments, more)[:12]
        began, acknowledged = time.monotonic(), 0.0

        def is_good() -> bool:
            nonlocal acknowledged
            found = self.rollout()
            newest = found["newest"] or {}
            if newest.get("version") == version and found["acknowledged"] == found["proxies"]:
                acknowledged = acknowledged or time.monotonic() - began
            assert found["failed"] != version, found["reason"]
            return bool(acknowledged and found["phase"] == "steady" and found["good"] == version)

        until(is_good, lambda: str(self.rollout()))
        return acknowledged

    def rollout(self) -> dict[str, Any]:
        """As ``vestibule rollout --output json`` has it, without a process for each look."""

        async def asked() -> Any:
            channel = unix_channel(self.note.server_socket)
            try:
                return await Client(channel, ROLLOUT).unary(
                    "Get", rollout_pb2.GetRolloutRequest(), timeout=30.0
                )
            finally:
                channel.close()

        return document(asyncio.run(asked()))

    # --------------------------------------------------------------------------------------------- calls

    def call(self, path: str = "/v1/charges", *, by: str = "orders", to: str = "payments") -> Answer:
        """One call by the app of ``by``, through its sidecar."""
        return _get(self.egress[by], f"http://{to}{path}")

    def call_in_plain_text(self, path: str) -> Answer:
        """Somebody without a sidecar at the door of payments."""
        return _get(self.ingress["payments"]["http"], path)

    def calls(
        self, count: int, path: str = "/v1/charges", *, at_once: int = 2, by: str = "orders"
    ) -> list[Answer]:
        """So many; ``{}`` in the path is their number."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda number: self.call(path.format(number), by=by), range(count)))

    @contextmanager
    def load(
        self, threads: int = 1, pause: float = 0.03, call: Callable[[], Answer] | None = None
    ) -> Iterator[Load]:
        """All the while orders calls payments, or what else is to be called."""
        load, done = Load(), threading.Event()

        def caller() -> None:
            while not done.wait(pause):
                load.answers.append(self.call() if call is None else call())

        callers = [threading.Thread(target=caller, daemon=True) for _ in range(threads)]
        for each in callers:
            each.start()
        try:
            yield load
        finally:
            done.set()
            for each in callers:
                each.join(30)

    # ------------------------------------------------------------------------------------------ evidence

    def seen(self, place: str, path: str) -> list[dict[str, Any]]:
        """What arrived at an instance whose path begins so."""
        file = self.intent / "apps" / f"seen-{place}.jsonl"
        lines = [json.loads(line) for line in whole_lines(file.read_text())] if file.exists() else []
        return [each for each in lines if each["path"].startswith(path)]

    def make_ill(self, place: str, ill: bool = True) -> None:
        """What its health check is told."""
        file = self.intent / "apps" / f"ill-{place}"
        file.touch() if ill else file.unlink(missing_ok=True)

    @property
    def access_log(self) -> Path:
        return self.note.access_log

    @property
    def audit_log(self) -> Path:
        return self.directory / "s" / "server" / "audit.jsonl"

    def records(self) -> list[AccessRecord]:
        return list(read(self.access_log))


class FarNode:
    """A second node: an agent elsewhere, and while ``instance`` is entered one more instance of payments v1."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._programs: list[Program] = []
        self._joining = threading.Thread(target=self._join, daemon=True)
        self._joined = False
        # Meanwhile there are other things to see.
        self._joining.start()

    @contextmanager
    def instance(self, envoy: Path | None = None) -> Iterator[None]:
        """One more instance of payments v1, with an Envoy of its node's own."""
        self._joining.join()
        assert self._joined, [each.said for each in self._programs]
        run, apps = self._shop.note.runtime, self._shop.intent / "apps"
        words = (
            *("sidecar", "--service", "payments", "--version", "v1", "--agent-socket", run / "far.sock"),
            *("--run-dir", self.run_directory, "--log-dir", self._shop.directory, "--drain", "1"),
            *(("--envoy", envoy) if envoy is not None else ()),
            *("--output", "json"),
            *("--", "/usr/bin/env", "PLACE=v1-far", sys.executable, apps / "payments.py"),
        )
        payments = self._start("far-payments", *words)
        try:
            payments.ready(PATIENCE)
            yield
        finally:
            payments.stop()
            self._programs.remove(payments)

    @property
    def run_directory(self) -> Path:
        """Where sidecars of this node alone have their sockets."""
        return self._shop.note.runtime / "f"

    def stop(self) -> None:
        """In order; nothing is left."""
        self._joining.join()
        try:
            while self._programs:
                self._programs[-1].stop()
                self._programs.pop()
        finally:
            for each in self._programs:
                each.kill()

    def _join(self) -> None:
        shop, run, note = self._shop, self._shop.note.runtime, self._shop.note
        token = shop.directory / "token"
        assert vestibule("token generate", "--write", token, *shop.operator).code == 0
        words = (
            *("agent", "run", "--trust-domain", "example.org", "--server", note.server_address),
            *("--data-dir", shop.directory / "far", "--socket", run / "far.sock"),
            *("--admin-socket", run / "far-admin.sock", "--trust-bundle", note.trust_bundle),
            *("--join-token-file", token, "--locality", FAR, "--output", "json"),
        )
        agent = self._start("far-agent", *words).ready(PATIENCE)["spiffe_id"]
        # The sidecar, and Envoy, for which the sidecar vouches.
        for selector in (f"unix:path:{Path(sys.executable).resolve()}", "supervised:service:payments"):
            made = vestibule(
                *("entry create", "--parent-id", agent, "--selector", selector),
                *("--spiffe-id", "spiffe://example.org/ns/prod/sa/payments", *shop.operator),
            )
            assert made.code == 0, made
        self._joined = True

    def _start(self, name: str, *words: object) -> Program:
        self._programs.append(Program(self._shop.directory, name, words))
        return self._programs[-1]


def statuses(answers: list[Answer]) -> dict[int, int]:
    """How many there are of each."""
    return dict(sorted(Counter(each.status for each in answers).items()))


def places(answers: list[Answer]) -> dict[str, int]:
    """How many each instance answered."""
    return dict(sorted(Counter(each.place for each in answers).items()))


def _get(address: str, target: str) -> Answer:
    host, _, port = address.rpartition(":")
    connection, began = http.client.HTTPConnection(host, int(port), timeout=60), time.monotonic()
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        status, content = response.status, response.read()
    except (OSError, http.client.HTTPException):
        status, content = 0, b""
    finally:
        connection.close()
    try:
        body = json.loads(content)
    except ValueError:
        body = content.decode("utf-8", "replace")
    return Answer(status=status, body=body, seconds=time.monotonic() - began)
