"""A server, an agent and a client that was there before, each a process; and whatever a test sets upon them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.front_door import Program, holds_none, processes_of, until, vestibule
from tests.ports import free_port

from vestibule.calls.unix import unix_channel
from vestibule.cli.server_calls import ServerCalls, check, to_wire
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2, types_pb2

DOMAIN: Final = "spiffe://example.org"
PYTHON: Final = f"unix:path:{Path(sys.executable).resolve()}"
"""What is true of every client written in Python, and of no Envoy."""
MESH: Final = """
mesh: lab
trust_domain: example.org
environment: prod
identity: /ns/{environment}/sa/{service}
"""
SERVICE: Final = "service: {}\nowner: team\nports: {{http: {{protocol: http}}}}\n"
ALLOW: Final = "allow: [{id: web-reads, from: [web], methods: [GET], paths: [/**]}]\n"
SERVICES: Final = {
    "web": SERVICE.format("web"),
    "orders": SERVICE.format("orders") + ALLOW,
    "thief": SERVICE.format("thief"),
}


class Platform:
    """The processes that every test shares, and how to start others beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run = directory / "run"
        self.intent = directory / "intent"
        self.bundle = directory / "bundle.pem"
        self.secrets: list[bytes] = []
        self.programs: list[Program] = []
        self._numbers = itertools.count()
        self.port = free_port()
        self.server: Program
        self.agent: Program
        self.bystander: Program
        self.agent_id = ""

    @property
    def server_socket(self) -> Path:
        return self.run / "server.sock"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def admin_socket(self) -> Path:
        return self.run / "agent-admin.sock"

    @property
    def operator(self) -> tuple[str, Path]:
        return ("--server-socket", self.server_socket)

    # ------------------------------------------------------------------------------ the shared processes

    def start(self) -> None:
        self.run.mkdir(mode=0o700)
        (self.intent / "services").mkdir(parents=True)
        (self.intent / "mesh.yaml").write_text(MESH)
        for name, text in SERVICES.items():
            (self.intent / "services" / f"{name}.yaml").write_text(text)
        self.start_server()
        self.bundle.write_text(vestibule("bundle", "show", *self.operator).envelope["data"]["pem"])
        token = self.token()
        self.start_agent("--join-token-file", token, "--trust-bundle", self.bundle)
        self.spent(token)
        self.create("/here", PYTHON)
        self.start_bystander()

    def start_server(self) -> None:
        self.server = self.program(
            *("server", "server", "run", "--trust-domain", "example.org", "--intent", self.intent),
            *("--data-dir", self.directory / "server", "--socket", self.server_socket),
            *("--bind", f"127.0.0.1:{self.port}", "--health", "off", "--output", "json"),
        )
        self.server.ready()
        self.keep_secret(self.directory / "server" / "kek")

    def start_agent(self, *more: object) -> None:
        self.agent = self.program(
            *("agent", "agent", "run", "--trust-domain", "example.org", "--server", f"127.0.0.1:{self.port}"),
            *("--data-dir", self.directory / "agent", "--socket", self.agent_socket),
            *("--admin-socket", self.admin_socket, "--output", "json", *more),
        )
        self.agent_id = self.agent.ready()["spiffe_id"]
        self.keep_secret(self.directory / "agent" / "kek")

    def start_bystander(self) -> None:
        self.bystander = self.program(
            "bystander", "svid", "watch", "--agent-socket", self.agent_socket, "--output", "json"
        )
        until(lambda: "/here" in self.held(), lambda: self.bystander.said)

    def revive(self) -> None:
        """A test that failed in the middle leaves a part dead; the next one should not suffer."""
        if not self.server.runs:
            self.start_server()
        if not self.agent.runs:
            self.start_agent()
        if not self.bystander.runs:
            self.start_bystander()

    def end(self) -> None:
        """Everything stops, in order; nothing is left."""
        for program in reversed(self.programs):
            if program.runs:
                program.stop()
        until(lambda: not processes_of(self.directory), lambda: str(processes_of(self.directory)), 45)

    def destroy(self) -> None:
        """Whatever is left after a failure."""
        for pid in processes_of(self.directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.programs:
            program.kill()

    def program(self, name: str, *words: object, before: tuple[str, ...] = ()) -> Program:
        made = Program(self.directory, name, words, before=before)
        self.programs.append(made)
        return made

    def another_agent(
        self, token: Path, name: str = "", *more: object, trust_domain: str = "example.org"
    ) -> Program:
        """An agent of its own places that comes with this token, and knows the server unless ``more`` says how."""
        name = name or f"agent{next(self._numbers)}"
        return self.program(
            *(name, "agent", "run", "--trust-domain", trust_domain, "--server", f"127.0.0.1:{self.port}"),
            *("--data-dir", self.directory / name, "--socket", self.run / f"{name}.sock"),
            *("--admin-socket", self.run / f"{name}-admin.sock", "--join-token-file", token),
            *(() if "--insecure-bootstrap" in more else ("--trust-bundle", self.bundle)),
            *("--output", "json", *more),
        )

    # ------------------------------------------------------------------------------------------- secrets

    def token(self, *more: object) -> Path:
        """A file with a new join token, which is a secret until it is spent."""
        path = self.directory / f"token{next(self._numbers)}"
        assert vestibule("token", "generate", "--write", path, *self.operator, *more).code == 0
        self.secrets.append(path.read_bytes().strip())
        return path

    def spent(self, token: Path) -> None:
        """A used token is part of its agent's name, which is no secret."""
        self.secrets.remove(token.read_bytes().strip())

    def keep_secret(self, path: Path) -> None:
        key = path.read_bytes()
        self.secrets += [key, key.hex().encode(), base64.b64encode(key)]

    def check_for_secrets(self) -> None:
        """Nothing that was shown, logged or given to a process on its command line is a secret."""
        shown = [*self.directory.glob("*.out"), *self.directory.glob("*.err")]
        shown += [*self.directory.glob("*/audit.jsonl"), *self.directory.glob("*/access.jsonl*")]
        texts = {path.name: path.read_bytes() for path in shown}
        for pid in processes_of(self.directory):
            with suppress(OSError):
                texts[f"process {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
                texts[f"environment of {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
        holds_none(texts, self.secrets)

    # ------------------------------------------------------------------------------------------- entries

    def create(self, path: str, *selectors: str, parent: str = "") -> str:
        """An entry below the shared agent, or another parent; its ID."""
        entry = types_pb2.Entry(
            spiffe_id=to_wire(SpiffeId.parse(f"{DOMAIN}{path}")),
            parent_id=to_wire(SpiffeId.parse(parent or self.agent_id)),
            selectors=[
                types_pb2.Selector(type=kind, value=value)
                for kind, _, value in (each.partition(":") for each in selectors)
            ],
        )
        request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
        result = self.ask(lambda calls: calls.entries.unary("BatchCreateEntry", request)).results[0]
        check(result.status)
        return str(result.entry.id)

    def delete(self, entry_id: str) -> None:
        request = entry_pb2.BatchDeleteEntryRequest(ids=[entry_id])
        check(self.ask(lambda calls: calls.entries.unary("BatchDeleteEntry", request)).results[0].status)

    def entries(self) -> int:
        request = entry_pb2.CountEntriesRequest()
        return int(self.ask(lambda calls: calls.entries.unary("CountEntries", request)).count)

    def ask(self, call: Callable[[ServerCalls], Awaitable[Any]]) -> Any:
        """One call over the operator's socket."""

        async def asked() -> Any:
            calls = ServerCalls(unix_channel(self.server_socket))
            try:
                return await call(calls)
            finally:
                calls.channel.close()

        return asyncio.run(asked())

    # ------------------------------------------------------------------------------------- the bystander

    def held(self) -> list[str]:
        """The identities that the bystander has now, without the trust domain."""
        documents = self.bystander.documents
        svids = documents[-1]["data"]["svids"] if documents else []
        return [each["spiffe_id"].removeprefix(DOMAIN) for each in svids]

    @contextmanager
    def undisturbed(self, *, reconnected: bool = False) -> Iterator[None]:
        """Whoever had a stream open before still has that stream afterwards, and gets on it what is new.

        The bystander's stream to the agent cannot be opened anew: its program would end.  The agent's own stream to
        the server could, and its log would tell.
        """
        followed = self.agent.err.count("following the server's changes")
        yield
        name = f"/news/{next(self._numbers)}"
        entry = self.create(name, PYTHON)
        until(lambda: name in self.held(), lambda: self.bystander.said, 45)
        self.delete(entry)
        until(lambda: name not in self.held(), lambda: self.bystander.said, 45)
        assert self.server.runs
        assert self.agent.runs
        followed_now = self.agent.err.count("following the server's changes")
        assert followed_now == followed or reconnected, self.agent.err[-3000:]
        assert "Traceback" not in self.server.err, self.server.err[-3000:]
        assert "Traceback" not in self.agent.err, self.agent.err[-3000:]


@contextmanager
def disk_full_at(size: int, program: Program) -> Iterator[None]:
    """No file of the program can grow beyond ``size`` bytes, which is how a full disk begins: some of it fits."""
    _, hard = resource.prlimit(program.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (hard, hard))


@dataclass(frozen=True, slots=True)
class SmallServer:
    """A server whose data directory is a disk of its own of 1 MB, where this user may mount one.

    The disk is mounted where only this server sees it, and ends with it.  ``data`` is the directory as seen from here.
    """

    program: Program
    socket: Path
    data: Path
    is_a_disk: bool

    @property
    def operator(self) -> tuple[str, Path]:
        return ("--server-socket", self.socket)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is free; where there is no disk, the largest file cannot grow."""
        if not self.is_a_disk:
            with disk_full_at((self.data / "server.db-wal").stat().st_size, self.program):
                yield
            return
        filler = self.data / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
        filler.unlink()


@contextmanager
def small_server(platform: Platform) -> Iterator[SmallServer]:
    """A further server with little space."""
    data, sock, is_a_disk = platform.directory / "small", platform.run / "small.sock", _may_mount()
    data.mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o size=1m,mode=0700 tmpfs {data} && exec "$@"'
    program = platform.program(
        *("small", "server", "run", "--trust-domain", "example.org", "--data-dir", data, "--socket", sock),
        *("--bind", "127.0.0.1:0", "--health", "off", "--output", "json"),
        before=("unshare", "--mount", "sh", "-c", mount, "sh") if is_a_disk else (),
    )
    program.ready()
    seen = Path(f"/proc/{program.pid}/root{data}") if is_a_disk else data
    yield SmallServer(program, sock, seen, is_a_disk)
    program.stop()


def _may_mount() -> bool:
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    with suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return False


@contextmanager
def platform_in_a_short_place(kind: type[Platform] = Platform) -> Iterator[Platform]:
    """Started, and at the end stopped with nothing left behind."""
    directory = Path(tempfile.mkdtemp(prefix="vbad-", dir="/tmp"))
    platform = kind(directory)
    try:
        platform.start()
        yield platform
        platform.end()
    finally:
        platform.destroy()
        shutil.rmtree(directory, ignore_errors=True)
