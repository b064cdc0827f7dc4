"""nginx, HAProxy, PostgreSQL and Redis on SVIDs from files, by the recipes of ``docs/svid-files.md``.

Mutual TLS, and rotations under load that lose nobody.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import ssl
import sys
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from tests.ports import free_port
from tests.postgres import binaries, unprivileged

from vestibule.pki.pem import CERTIFICATE, pem_block
from vestibule.testing import TestAuthority
from vestibule.testing.workload_api import ScriptedWorkloadApi, scripted_workload_api

VESTIBULE = (sys.executable, "-m", "vestibule")
ROTATIONS = 3
PATIENCE = 120.0
DB = "db.internal"
USER = "orders"
PAGE = Path(__file__).parents[2] / "docs" / "svid-files.md"


def program(name: str) -> str:
    """Where it is; the test is left out, with the reason, where it is not."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@dataclass(frozen=True)
class Recipe:
    """The command that keeps the files, and the configurations by language."""

    words: list[str]
    blocks: dict[str, str]


@dataclass
class Place:
    """A directory of a test: a Workload API, the server's files, and the client's."""

    path: Path
    api: ScriptedWorkloadApi
    processes: list[Process] = field(default_factory=list)

    @property
    def files(self) -> Path:
        return self.path / "tls"

    async def start(self, *words: str, **account: Any) -> Process:
        """A process whose output stands in ``log``."""
        with (self.path / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=DEVNULL, stdout=log, stderr=STDOUT, **account
            )
        self.processes.append(process)
        return process

    def recipe(self, name: str, port: int) -> Recipe:
        """What the page says of a program, with paths and the port of this test."""
        section = PAGE.read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for said, meant in {
            "/var/lib/postgresql/15/main": f"{self.path}/data",
            "/run/tls": str(self.files),
            "/run/": f"{self.path}/",
            "127.0.0.1:8443": f"127.0.0.1:{port}",
            "tls-port 8443": f"tls-port {port}",
        }.items():
            section = section.replace(said, meant)
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
        words = shlex.split(blocks["sh"].replace("\\\n", " "))
        assert words[:2] == ["vestibule", "svid"]
        if "--owner" in words:
            account = unprivileged()
            at = words.index("--owner")
            words[at : at + 2] = ["--owner", str(account["user"])] if account else []
        return Recipe(words=words[1:], blocks=blocks)

    async def write_once(self, recipe: Recipe) -> None:
        """As before the program starts, without anybody to be told."""
        self.files.mkdir(mode=0o755)
        self.api.issue("/server", dns_names=[DB])
        told = next(at for at, word in enumerate(recipe.words) if word in ("--pid-file", "--renew-command"))
        process = await self.start(
            *VESTIBULE, *(w for w in recipe.words[:told] if w != "--follow"), *self.agent
        )
        assert await process.wait() == 0, self.said
        self.processes.remove(process)

    async def follow(self, recipe: Recipe) -> None:
        """As the page says."""
        await self.start(*VESTIBULE, *recipe.words, *self.agent)

    @property
    def agent(self) -> tuple[str, str]:
        return ("--agent-socket", str(self.path / "a.sock"))

    async def until_served(self, connect: Callable[[], Awaitable[int]]) -> None:
        """Until it answers at all."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await connect()
                except (OSError, psycopg.OperationalError):
                    for process in self.processes:
                        assert process.returncode is None, self.said
                    await asyncio.sleep(0.05)
                else:
                    return

    @property
    def said(self) -> str:
        return (self.path / "log").read_text(errors="replace")

    async def end(self) -> None:
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        async with scripted_workload_api(path / "a.sock") as api:
            place = Place(path, api)
            try:
                yield place
            finally:
                await place.end()


def client_files(
    place: Place, *, authority: TestAuthority | None = None, user: str = USER
) -> tuple[Path, Path]:
    """Certificate, with the caller's name in it, and key."""
    svid = (authority or place.api.authority).svid(f"/{user}", dns_names=[user])
    cert, key = (place.path / f"{svid.serial:x}.{end}" for end in ("pem", "key"))
    cert.write_bytes(pem_block(CERTIFICATE, svid.chain[0]))
    key.touch(0o600)
    key.write_bytes(pem_block("PRIVATE KEY", svid.key))
    return cert, key


def client_context(place: Place, files: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(place.files / "bundle.pem"))
    context.check_hostname = False  # a SPIFFE ID is no host name
    if files is not None:
        context.load_cert_chain(*files)
    return context


@dataclass
class Load:
    """Connections one after the other, in several lanes, until stopped; the first that fails ends the test."""

    connect: Callable[[], Awaitable[int]]
    lanes: int = 3
    done: int = 0
    serial: int = 0
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._lane()) for _ in range(self.lanes)]
        return self

    async def __aexit__(self, *_: object) -> None:
        # Each lane ends the connection that it has begun: none is cut in the middle of its handshake.
        self._stopping = True
        for each in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(each, BaseException):
                raise each

    async def _lane(self) -> None:
        while not self._stopping:
            self.serial = await self.connect()
            self.done += 1
            await asyncio.sleep(0.01)

    async def until(self, serial: int) -> None:
        """Until that certificate is shown to a new connection."""
        async with asyncio.timeout(PATIENCE):
            while self.serial != serial:
                await self._check()
                await asyncio.sleep(0.01)

    async def _check(self) -> None:
        for task in self._tasks:
            if task.done():
                await task


async def rotate_under_load(place: Place, connect: Callable[[], Awaitable[int]], name: str) -> None:
    async with Load(connect) as load:
        await load.until(place.api.svids[0].serial)
        for _ in range(ROTATIONS):
            before = load.done
            svid = place.api.issue("/server", dns_names=[DB])
            await load.until(svid.serial)
            assert load.done > before
    print(f"{name}: {ROTATIONS} rotations, {load.done} connections, 0 failed")  # noqa: T201 - the figure


def serial_of(der: bytes | None) -> int:
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def https(place: Place, port: int, files: tuple[Path, Path] | None) -> tuple[int, bytes]:
    """One request on a connection of its own: the server's serial number and the answer."""
    async with asyncio.timeout(PATIENCE):
        context = client_context(place, files)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=DB)
        try:
            serial = serial_of(writer.get_extra_info("ssl_object").getpeercert(True))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return serial, await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def served(place: Place, port: int, files: tuple[Path, Path]) -> int:
    serial, answer = await https(place, port, files)
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    return serial


async def refused(connect: Awaitable[tuple[int, bytes]]) -> bool:
    try:
        _, answer = await connect
    except OSError:
        return True
    return b" 200 " not in answer.split(b"\r\n")[0]


async def test_nginx(place: Place) -> None:
    nginx, port = program("nginx"), free_port()
    recipe = place.recipe("nginx", port)
    await place.write_once(recipe)
    config = place.path / "nginx.conf"
    config.write_text(NGINX.format(path=place.path, server=recipe.blocks["nginx"]))
    await place.start(nginx, "-e", str(place.path / "log"), "-c", str(config))
    await assert_web_server(place, recipe, port, "nginx")


async def test_haproxy(place: Place) -> None:
    haproxy, port = program("haproxy"), free_port()
    recipe = place.recipe("HAProxy", port)
    await place.write_once(recipe)
    config = place.path / "haproxy.cfg"
    config.write_text(recipe.blocks["haproxy"])
    await place.start(haproxy, "-W", "-f", str(config), "-p", str(place.path / "haproxy.pid"))
    await assert_web_server(place, recipe, port, "HAProxy")


NGINX = """
daemon off;
pid {path}/nginx.pid;
error_log {path}/log;
worker_processes 2;
events {{}}
http {{
    access_log off;
    client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
    uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
    {server}
}}
"""


async def assert_web_server(place: Place, recipe: Recipe, port: int, name: str) -> None:
    mine = client_files(place)
    await place.until_served(lambda: served(place, port, mine))
    await place.follow(recipe)
    await rotate_under_load(place, lambda: served(place, port, mine), name)
    assert await refused(https(place, port, None)), "without a certificate"
    stranger = client_files(place, authority=TestAuthority("example.org"))
    assert await refused(https(place, port, stranger)), "of an authority of the same name"
    assert await refused(https(place, port, client_files(place, user="reports"))), "not authorized"


async def test_postgresql(place: Place) -> None:
    found = binaries()
    if found is None:
        pytest.skip("postgresql is not installed")
    port, account = free_port(), unprivileged()
    recipe = place.recipe("PostgreSQL", port)
    data = place.path / "data"
    data.mkdir(mode=0o700)
    if account:
        os.chown(data, account["user"], account["group"])
    words = [
        str(found / "initdb"),
        "-D",
        str(data),
        *["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        "-U",
        USER,
    ]
    initialising = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, **account)
    assert await initialising.wait() == 0
    (data / "pg_hba.conf").write_text(recipe.blocks["pg_hba"])
    more = f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n"
    (data / "postgresql.conf").write_text(more + recipe.blocks["postgresql"])
    await place.write_once(recipe)
    await place.start(str(found / "postgres"), "-D", str(data), **account)
    mine = client_files(place)

    async def connected() -> int:
        assert await logged_in(place, port, mine) == USER
        return await shown_by_postgresql(place, port)

    await place.until_served(connected)
    await place.follow(recipe)
    async with await psycopg.AsyncConnection.connect(conninfo(place, port, mine)) as lasting:
        await rotate_under_load(place, connected, "PostgreSQL")
        await lasting.execute("SELECT 1")
    for files in (
        None,
        client_files(place, authority=TestAuthority("example.org")),
        client_files(place, user="reports"),
    ):
        with pytest.raises(psycopg.OperationalError):
            await logged_in(place, port, files)


def conninfo(place: Place, port: int, files: tuple[Path, Path] | None) -> str:
    certificate, key = files or (place.path / "none", place.path / "none")
    return (
        f"host={DB} hostaddr=127.0.0.1 port={port} user={USER} dbname=postgres sslmode=verify-full "
        f"sslrootcert={place.files}/bundle.pem sslcert={certificate} sslkey={key} connect_timeout=100"
    )


async def logged_in(place: Place, port: int, files: tuple[Path, Path] | None) -> str:
    async with await psycopg.AsyncConnection.connect(conninfo(place, port, files)) as connection:
        cursor = await connection.execute("SELECT current_user")
        found = await cursor.fetchone()
        assert found is not None
        return str(found[0])


async def shown_by_postgresql(place: Place, port: int) -> int:
    """The serial number of the server's certificate: TLS begins after an SSLRequest."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
            assert await reader.readexactly(1) == b"S"
            await writer.start_tls(client_context(place, None), server_hostname=DB)
            return serial_of(writer.get_extra_info("ssl_object").getpeercert(True))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_redis(place: Place) -> None:
    redis, port = program("redis-server"), free_port()
    program("redis-cli")
    recipe = place.recipe("Redis", port)
    await place.write_once(recipe)
    config = place.path / "redis.conf"
    config.write_text(f'dir {place.path}\nsave ""\n{recipe.blocks["redis"]}')
    await place.start(redis, str(config))
    mine = client_files(place)
    await place.until_served(lambda: pinged(place, port, mine))
    await place.follow(recipe)
    await rotate_under_load(place, lambda: pinged(place, port, mine), "Redis")
    stranger = client_files(place, authority=TestAuthority("example.org"))
    for files in (None, stranger):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await pinged(place, port, files)


async def pinged(place: Place, port: int, files: tuple[Path, Path] | None) -> int:
    async with asyncio.timeout(PATIENCE):
        context = client_context(place, files)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=DB)
        try:
            writer.write(b"PING\r\n")
            assert await reader.readexactly(7) == b"+PONG\r\n"
            return serial_of(writer.get_extra_info("ssl_object").getpeercert(True))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
