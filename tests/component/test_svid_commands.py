"""``vestibule svid write`` and ``svid exec`` as processes, beside a Workload API that a test has in its hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.ports import free_port

from vestibule.testing.workload_api import ScriptedWorkloadApi, scripted_workload_api

VESTIBULE = (sys.executable, "-m", "vestibule")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a Unix socket's 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
async def api(short_dir: Path) -> AsyncIterator[ScriptedWorkloadApi]:
    async with scripted_workload_api(short_dir / "a.sock") as api:
        yield api


@asynccontextmanager
async def running(short_dir: Path, *words: str, **env: str) -> AsyncIterator[Process]:
    """A command of ours; ended with the test."""
    variables = os.environ | {"VESTIBULE_AGENT_SOCKET": str(short_dir / "a.sock")} | env
    process = await asyncio.create_subprocess_exec(
        *VESTIBULE, "svid", *words, env=variables, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(120):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def done(short_dir: Path, *words: str) -> tuple[int, str, str]:
    async with running(short_dir, *words) as process:
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def test_write_once_puts_files_tells_and_ends(api: ScriptedWorkloadApi, short_dir: Path) -> None:
    api.issue("/web")
    password, files = short_dir / "password", short_dir / "files"
    files.mkdir(0o700)
    password.touch(0o600)
    password.write_text("correct horse")
    named = ("--cert", "c", "--key", "k", "--bundle", "b", "--pkcs12", "k.p12", "--jks", "k.jks")
    kept = ("--password-file", str(password), "--jwt", "db=t", "--jwt", "web=t", "--jwt-bundle", "j")
    told = ("--renew-command", f"touch {short_dir}/told")
    code, out, err = await done(short_dir, "write", str(files), *named, *kept, *told, "--output", "json")
    assert (code, err) == (0, "")
    written = {Path(each).name for each in json.loads(out)["data"]["files"]}
    assert written == {"c", "k", "b", "k.p12", "k.jks", "t", "j"}
    assert (short_dir / "told").exists()


async def test_write_says_what_is_wrong(api: ScriptedWorkloadApi, short_dir: Path) -> None:
    here = str(short_dir)
    for words, code, said in (
        (("write",), 2, "VST9100"),
        (("write", here, "--cert", "a/b"), 2, "VST2456"),
        (("write", here, "--health-port", "1"), 2, "VST9100"),
        (("write", here, "--helper-config", "x"), 2, "VST9100"),
        (("write", here), 4, "VST2105"),
    ):
        found, _, err = await done(short_dir, *words)
        assert (found, said in err) == (code, True), err
    api.issue("/web")
    found, _, err = await done(short_dir, "write", here, "--renew-command", "false")
    assert (found, "VST2454" in err) == (1, True), err


async def test_a_configuration_of_spiffe_helper_is_followed(
    api: ScriptedWorkloadApi, short_dir: Path
) -> None:
    files, marks, port = short_dir / "certs", short_dir / "marks", free_port()
    files.mkdir()
    script = f"trap 'echo renewed >> {marks}' USR1; echo started > {marks}; while :; do sleep 0.1; done"
    (short_dir / "run.sh").write_text(script)
    config = short_dir / "helper.conf"
    config.write_text(
        f'agent_address = "{short_dir}/a.sock"\ncert_dir = "{files}"\ncmd = "sh"\ncmd_args = "{short_dir}/run.sh"\n'
        'renew_signal = "SIGUSR1"\nsvid_file_name = "svid.pem"\nsvid_key_file_name = "svid_key.pem"\n'
        'svid_bundle_file_name = "bundle.pem"\njwt_bundle_file_name = "jwt.json"\nkey_file_mode = 0400\n'
        f"health_checks {{ listener_enabled = true bind_port = {port} }}\n"
    )
    api.issue("/web")
    async with running(short_dir, "write", "--helper-config", str(config)) as process:
        await until(lambda: marks.exists() and marks.read_text() == "started\n")
        assert (files / "svid_key.pem").stat().st_mode & 0o777 == 0o400
        api.issue("/web")
        await until(lambda: marks.read_text() == "started\nrenewed\n")
        async with asyncio.timeout(60):
            while b"200 OK" not in await ready(port):
                await asyncio.sleep(0.05)
        process.terminate()
        assert await process.wait() == 0


async def ready(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /ready HTTP/1.1\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


SHOWS = """
import os, sys, time, signal
def told(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
    signal.signal(each, told)
assert os.stat(os.environ["VESTIBULE_SVID_DIR"]).st_mode & 0o777 == 0o700
assert "PRIVATE KEY" in open(os.environ["VESTIBULE_SVID_KEY"]).read()
assert os.environ["PGSSLROOTCERT"] == os.environ["VESTIBULE_SVID_BUNDLE"]
print(os.environ["VESTIBULE_SVID_DIR"], sys.stdin.readline().strip(), flush=True)
while True:
    time.sleep(0.05)
"""


async def test_exec_gives_files_that_follow_passes_signals_on_and_ends_as_the_program_does(
    api: ScriptedWorkloadApi, short_dir: Path
) -> None:
    api.issue("/web")
    options = ("--env", "PGSSLROOTCERT=bundle.pem", "--renew-signal", "SIGHUP", "--under", str(short_dir))
    async with running(short_dir, "exec", *options, "--", sys.executable, "-c", SHOWS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"typed\n")
        place, typed = (await process.stdout.readline()).decode().split()
        assert typed == "typed"
        before = (Path(place) / "svid.pem").read_text()
        api.issue("/web")
        assert await process.stdout.readline() == b"SIGHUP\n", "of the renewal"
        assert (Path(place) / "svid.pem").read_text() != before
        process.send_signal(signal.SIGUSR2)
        assert await process.stdout.readline() == b"SIGUSR2\n"
        process.terminate()
        assert await process.stdout.readline() == b"SIGTERM\n"
        assert await process.wait() == 7
    assert not Path(place).exists()


async def test_exec_in_memory_ends_as_a_shell_would_say(api: ScriptedWorkloadApi, short_dir: Path) -> None:
    api.issue("/web")
    script = "echo $VESTIBULE_SVID_DIR; kill -KILL $$"
    code, out, err = await done(short_dir, "exec", "--", "sh", "-c", script)
    assert (code, err) == (128 + signal.SIGKILL, "")
    assert not Path(out.strip()).exists()
    code, _, err = await done(short_dir, "exec", "--", "/no/such/program")
    assert (code, "VST7000" in err) == (4, True)


async def test_exec_starts_nothing_without_an_identity(api: ScriptedWorkloadApi, short_dir: Path) -> None:
    code, out, err = await done(
        short_dir, "exec", "--wait", "1s", "--under", str(short_dir), "--", "echo", "started"
    )
    assert (code, out) == (3, "")
    assert "VST2402" in err
    assert not list(short_dir.glob("vestibule-svid-*"))


async def test_exec_that_waits_ends_by_a_signal_and_leaves_nothing(
    api: ScriptedWorkloadApi, short_dir: Path
) -> None:
    async with running(
        short_dir, "exec", "--wait", "10m", "--under", str(short_dir), "--", "echo", "started"
    ) as process:
        # The warning that there is no identity yet comes from within.
        assert process.stderr is not None
        await process.stderr.readline()
        process.terminate()
        assert await process.wait() == 128 + signal.SIGTERM
    assert not list(short_dir.glob("vestibule-svid-*"))


async def test_exec_takes_a_variable_only_for_a_file_that_there_is(
    api: ScriptedWorkloadApi, short_dir: Path
) -> None:
    code, _, err = await done(short_dir, "exec", "--env", "X=other.pem", "--", "true")
    assert (code, "svid.pem, svid.key, bundle.pem" in err) == (2, True), err
