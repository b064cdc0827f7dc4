"""``vestibule server run`` as a process: its one line, its signals, its complaints."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.component.server_lab import short_directory

PROGRAM = "from vestibule.app.main import main; main()"


def arguments(directory: Path, *more: str) -> list[str]:
    return [
        *("server", "run", "--trust-domain", "example.org", "--data-dir", str(directory / "data")),
        *("--socket", str(directory / "run" / "server.sock"), "--bind", "127.0.0.1:0", "--health", "off"),
        *more,
    ]


async def start(*arguments: str, before: Callable[[], None] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=before,
    )


async def finished(*arguments: str, before: Callable[[], None] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    async with asyncio.timeout(60):
        process = await start(*arguments, before=before)
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def server(directory: Path, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await start(*arguments(directory, *more))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield process, (await process.stdout.readline()).decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_says_once_where_it_is_and_ends_quietly_on_a_signal() -> None:
    with short_directory() as directory:
        for number in (signal.SIGTERM, signal.SIGINT):
            async with server(directory) as (process, line):
                assert line.startswith("vestibule server ready: trust_domain=example.org grpc=127.0.0.1:")
                process.send_signal(number)
                out, err = await process.communicate()
            assert (process.returncode, out) == (0, b"")
            assert b"Traceback" not in err
            assert not (directory / "run" / "server.sock").exists()


async def test_a_killed_server_starts_again_on_the_same_places() -> None:
    with short_directory() as directory:
        async with server(directory) as (process, _):
            process.kill()
            await process.wait()
        assert (directory / "run" / "server.sock").exists()
        async with server(directory) as (process, line):
            assert line.startswith("vestibule server ready:")
            process.terminate()
            await process.wait()


async def test_a_taken_port_is_explained() -> None:
    with short_directory() as directory, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = await finished(*arguments(directory, "--bind", f"127.0.0.1:{port}"))
    assert (code, out) == (4, "")
    assert f"VST2320 port {port} on 127.0.0.1 is in use" in err
    assert "fix:" in err


async def test_a_long_socket_path_is_explained() -> None:
    with short_directory() as directory:
        long = directory / ("x" * 100) / "server.sock"
        code, _, err = await finished(*arguments(directory, "--socket", str(long)))
    assert code == 4
    assert "VST2310" in err
    assert "107" in err


async def test_wrong_settings_are_explained_with_their_place() -> None:
    with short_directory() as directory:
        config = directory / "server.yaml"
        config.write_text("trust_domain: example.org\nca_tll: 1h\nbind_port: x\n")
        code, _, err = await finished("server", "run", "--config", str(config))
        assert code == 2
        assert f"{config}:2:1: VST0020 the server's file has no key 'ca_tll'" in err
        assert "Did you mean 'ca_ttl'?" in err
        assert f"{config}:3:12: VST" in err, "all at once"
        code, _, err = await finished(*arguments(directory, "--ca-ttl", "soon"))
        assert (code, "VST9100" in err) == (2, True)
        code, _, err = await finished(*arguments(directory, "--trust-domain", "Not A Domain"))
        assert (code, "VST1400" in err) == (2, True)


async def test_a_disk_without_room_at_the_start_is_explained() -> None:
    def no_room() -> None:
        # No file of the process can grow beyond this; the kernel then answers EFBIG.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    with short_directory() as directory:
        code, out, err = await finished(*arguments(directory), before=no_room)
        assert (code, out) in ((3, ""), (4, ""))
        assert "VST80" in err
        assert "fix:" in err
        assert "Traceback" not in err
        # With room again, nothing of the failed start is in the way.
        async with server(directory) as (process, line):
            assert line.startswith("vestibule server ready:")
            process.terminate()
            await process.wait()


async def test_a_full_disk_refuses_changes_and_loses_nothing() -> None:
    with short_directory() as directory:
        async with server(directory) as (process, _):
            sock = ("--server-socket", str(directory / "run" / "server.sock"))
            create = (
                "entry",
                "create",
                "--parent-to-come",
                "--parent-id",
                "spiffe://example.org/node",
                *sock,
            )
            code, out, _ = await finished(
                *create, "--spiffe-id", "spiffe://example.org/web", "--selector", "unix:uid:1", "-o", "json"
            )
            assert code == 0
            kept = json.loads(out)["data"]["id"]

            audit = directory / "data" / "audit.jsonl"
            before = audit.read_bytes()
            room = audit.stat().st_size
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            code, _, err = await finished(
                *create, "--spiffe-id", "spiffe://example.org/job", "--selector", "unix:uid:2"
            )
            assert code in (3, 4)
            assert "VST8100" in err
            assert "fix:" in err
            # Reading goes on.
            code, out, _ = await finished("entry", "show", *sock, "-o", "json")
            assert [entry["id"] for entry in json.loads(out)["data"]] == [kept]

            # With room again it goes on as if nothing had been.
            unlimited = resource.RLIM_INFINITY
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
            code, _, _ = await finished(
                *create, "--spiffe-id", "spiffe://example.org/job", "--selector", "unix:uid:2"
            )
            assert code == 0
            assert audit.read_bytes().startswith(before)
            process.terminate()
            await process.wait()


async def test_the_operators_commands_answer_in_both_forms() -> None:
    with short_directory() as directory:
        async with server(directory) as (process, _):
            sock = ("--server-socket", str(directory / "run" / "server.sock"))
            code, out, _ = await finished("token", "generate", *sock, "-o", "json")
            assert (code, json.loads(out)["schema"]) == (0, "vestibule.token/v1")
            file = directory / "token"
            code, out, _ = await finished("token", "generate", "--write", str(file), *sock)
            assert (code, file.stat().st_mode & 0o777, len(file.read_text().strip())) == (0, 0o600, 32)
            assert file.read_text().strip() not in out
            code, out, _ = await finished("bundle", "show", *sock)
            assert (code, out.startswith("-----BEGIN CERTIFICATE-----")) == (0, True)
            code, out, _ = await finished("agent", "list", *sock)
            assert (code, out) == (0, "Found 0 attested agents\n")
            missing = "spiffe://example.org/spire/agent/join_token/nothing"
            code, _, err = await finished("agent", "evict", missing, *sock)
            assert (code, "VST1208" in err) == (4, True)
            web = ("--spiffe-id", "spiffe://example.org/web", "--selector", "unix:uid:1")
            code, _, err = await finished("entry", "create", *web, "--parent-id", missing, *sock)
            assert (code, "VST1301" in err) == (2, True)
            code, out, _ = await finished("entry", "create", *web, "--node", *sock, "-o", "json")
            assert (code, json.loads(out)["data"]["parent_id"]) == (0, "spiffe://example.org/spire/server")
            entry_id = json.loads(out)["data"]["id"]
            # The alias is a parent from now on.
            job = ("--spiffe-id", "spiffe://example.org/job", "--selector", "unix:uid:1")
            code, _, _ = await finished(
                "entry", "create", *job, "--parent-id", "spiffe://example.org/web", *sock
            )
            assert code == 0
            code, out, _ = await finished(
                "entry", "update", entry_id, "--x509-svid-ttl", "5m", *sock, "-o", "json"
            )
            assert (code, json.loads(out)["data"]["x509_svid_ttl"]) == (0, 300)
            code, out, _ = await finished("entry", "delete", entry_id, "nothing", *sock, "-o", "json")
            document = json.loads(out)
            assert (code, document["data"]["deleted"]) == (4, [entry_id])
            assert [error["code"] for error in document["errors"]] == ["VST1206"]
            code, out, _ = await finished("entry", "count", *sock)
            assert (code, out) == (0, "1\n")
            process.terminate()
            await process.wait()
        code, _, err = await finished("entry", "count", *sock)
        assert (code, "VST9102" in err) == (3, True)
