"""The base installation alone: what `pip install vestibule` gives, from requirements/base.txt, and nothing more.

A server and an agent of the complete installation run beside it, in this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.component.test_agent import ME, Field, Running, a_world, anything

ROOT = Path(__file__).resolve().parents[2]
MISSING = "VST9101"
REFUSED = 4


@dataclass(frozen=True)
class Installation:
    """A virtual environment, and a clean environment to run its programs in."""

    bin: Path

    async def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, output and complaints of one of its programs."""
        process = await asyncio.create_subprocess_exec(
            str(self.bin / command[0]),
            *command[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=self.bin,
            env={"PATH": os.defpath, "HOME": str(self.bin), **environment},
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def _run(*command: str | Path) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Made once: the locked base requirements and this checkout's own wheel."""
    home = tmp_path_factory.mktemp("base")
    python = home / "venv" / "bin" / "python"
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-compile")
    # Where this installation has a pip, it need not be made anew.
    has_pip = find_spec("pip") is not None
    pip = (sys.executable, "-m", "pip", "--python", python) if has_pip else (python, "-m", "pip")
    install = (*pip, "install", *options)
    try:
        _run(sys.executable, "-m", "venv", *(("--without-pip",) if has_pip else ()), home / "venv")
        _run(*install, "--only-binary=:all:", "--require-hashes", "-r", "requirements/base.txt")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the base requirements cannot be installed here: {error.stderr.strip()[-300:]}")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", home)
    (wheel,) = home.glob("*.whl")
    _run(*install, "--no-deps", "--no-index", wheel)
    return Installation(python.parent)


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@pytest.fixture
async def agent(world: Field) -> Running:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    return agent


async def test_the_sdk_imports_only_what_the_base_has_and_no_command_line(base: Installation) -> None:
    heavy = "typer rich pydantic sqlalchemy ruamel envoy uvloop starlette google.rpc"
    script = (
        "import sys, vestibule.sdk\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])\n"
        "print([name for name in sys.modules if name.startswith(('vestibule.app', 'vestibule.cli'))])\n"
    )
    assert await base.run("python", "-c", script) == (0, "[]\n[]\n", "")


async def test_an_application_gets_its_identity_and_talks_mutual_tls(
    base: Installation, agent: Running
) -> None:
    script = """
import asyncio
from vestibule.sdk import X509Source, authorize_member_of, client_context, peer_id, server_context

async def main():
    async with X509Source() as source:
        ours = authorize_member_of("example.org")
        async def answer(reader, writer):
            writer.write(str(peer_id(writer.get_extra_info("ssl_object"))).encode())
            writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(source, ours))
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(source, ours), server_hostname="")
        print((await reader.read()).decode())
        writer.close()
        server.close()

asyncio.run(main())
"""
    endpoint = f"unix://{agent.settings.socket_path}"
    code, out, err = await base.run("python", "-c", script, SPIFFE_ENDPOINT_SOCKET=endpoint)
    assert (code, out, err) == (0, "spiffe://example.org/web\n", "")


async def test_svid_fetch_and_write_work(base: Installation, agent: Running, tmp_path: Path) -> None:
    socket = str(agent.settings.socket_path)
    code, out, _ = await base.run("vestibule", "svid", "fetch", "--agent-socket", socket, "--output", "json")
    assert code == 0
    assert json.loads(out)["data"]["svids"][0]["spiffe_id"] == "spiffe://example.org/web"
    code, _, err = await base.run("vestibule", "svid", "write", str(tmp_path), "--agent-socket", socket)
    assert (code, err) == (0, "")
    assert (tmp_path / "svid.0.key").stat().st_mode & 0o777 == 0o600


async def test_entries_agents_and_bundles_are_administered(
    base: Installation, world: Field, agent: Running
) -> None:
    socket = str(world.server.socket)

    async def asked(*words: str) -> str:
        code, out, err = await base.run("vestibule", *words, "--server-socket", socket, "--output", "json")
        assert code == 0, err + out
        return out

    assert "spiffe://example.org/web" in await asked("entry", "show")
    assert str(agent.id) in await asked("agent", "list")
    assert "token" in await asked("token", "generate")
    assert "BEGIN CERTIFICATE" in await asked("bundle", "show")


@pytest.mark.parametrize("command", ["status", "check"])
async def test_status_and_check_answer_in_the_envelope(
    base: Installation, world: Field, agent: Running, command: str
) -> None:
    sockets = ["--server-socket", str(world.server.socket), "--agent-socket", str(agent.settings.socket_path)]
    sockets += ["--admin-socket", str(agent.settings.admin_socket_path)]
    usable = [word for word in sockets if word]
    _, help_text, _ = await base.run("vestibule", command, "--help", COLUMNS="200", NO_COLOR="1")
    given = [
        word
        for flag, value in zip(usable[::2], usable[1::2], strict=True)
        if flag in help_text
        for word in (flag, value)
    ]
    code, out, err = await base.run("vestibule", command, *given, "--output", "json")
    assert code in (0, 1), err + out
    assert json.loads(out)["schema"] == f"vestibule.{command}/v1"


@pytest.mark.parametrize("command", ["validate", "up", "server run", "agent run", "sidecar"])
async def test_what_needs_the_complete_installation_says_so(base: Installation, command: str) -> None:
    needed = {
        "server run": ["--trust-domain", "example.org", "--data-dir", str(base.bin.parent / "state")],
        "agent run": ["--trust-domain", "example.org", "--server", "127.0.0.1:1"],
        "sidecar": ["--service", "web"],
    }
    code, out, err = await base.run("vestibule", *command.split(), *needed.get(command, []))
    assert code == REFUSED, err + out
    assert MISSING in err
    assert "pip install 'vestibule[all]'" in err


@pytest.mark.parametrize(
    "command",
    ["svid fetch", "entry create", "agent list", "token generate", "bundle show", "status", "check"],
)
async def test_every_client_command_explains_itself(base: Installation, command: str) -> None:
    code, out, err = await base.run("vestibule", *command.split(), "--help")
    assert (code, err) == (0, "")
    assert command.split()[-1] in out
