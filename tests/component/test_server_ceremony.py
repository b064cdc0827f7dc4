"""A server below an offline root: it waits, is answered, issues, and is warned of."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from tests.component.server_lab import short_directory
from tests.component.test_server_process import arguments, finished, start

PASSPHRASE = "correct horse battery staple"


async def done(*words: str, code: int = 0) -> str:
    found, out, err = await finished(*words)
    assert found == code, out + err
    return out + err


async def root(directory: Path, name: str = "root") -> tuple[str, ...]:
    """An offline root, and the options by which it signs."""
    secret = directory / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    options = ("--dir", str(directory / name), "--passphrase-file", str(secret))
    await done("ca", "init", "--name", name, "--trust-domain", "example.org", *options)
    return options


@pytest.mark.timeout(120)
async def test_a_server_waits_for_the_root_and_issues_when_it_was_answered() -> None:
    with short_directory() as directory:
        signing = await root(directory)
        request, answer = directory / "request.csr", directory / "answer.pem"
        socket = ("--server-socket", str(directory / "run" / "server.sock"))
        roots = directory / "root" / "root.pem"
        options = ("--upstream", "ceremony", "--upstream-roots", str(roots))
        process = await start(*arguments(directory, *options))
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                while not (directory / "run" / "server.sock").exists():
                    await asyncio.sleep(0.05)
                await done("ca", "request", "--server", *socket, "--out", str(request))
                refused = await done("ca", "install", str(request), "--server", *socket, code=2)
                assert "VST1032" in refused
                await done("ca", "sign", str(request), "--out", str(answer), *signing)
                told = json.loads(await done("ca", "install", str(answer), "--server", *socket, "-o", "json"))
                assert told["data"]["name"].startswith("prod-")
                line = (await process.stdout.readline()).decode()
                assert line.startswith("vestibule server ready:")
                bundle = await done("bundle", "show", *socket)
                assert bundle.strip() == roots.read_text().strip()
                again = await done("ca", "install", str(answer), "--server", *socket, code=4)
                assert "VST1387" in again
                transcripts = (directory / "root", directory / "data" / "ceremony")
                files = [str(each / "transcript.txt") for each in transcripts]
                witnessed = await done("ca", "transcript", "verify", *files, "--root", str(roots))
                assert "requested, signed" in witnessed
                assert ", installed" in witnessed
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
        assert b"waiting for the ceremony" in err
        assert b"Traceback" not in err
        assert process.returncode == 0


async def test_a_waiting_server_ends_on_a_signal() -> None:
    with short_directory() as directory:
        await root(directory)
        options = ("--upstream", "ceremony", "--upstream-roots", str(directory / "root" / "root.pem"))
        process = await start(*arguments(directory, *options))
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"waiting for the ceremony" not in await process.stderr.readline():
                pass
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
        assert (process.returncode, out) == (0, b"")
        assert b"Traceback" not in err
