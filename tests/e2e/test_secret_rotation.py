"""A password is rotated under a running app: through real sidecars, with no call that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.test_up import Up, up

pytestmark = pytest.mark.timeout(240)

SECRET = "http://secrets/v1/secret/data/payments/ledger"
PATIENCE = 60.0

SERVICES = {
    "payments": "[{id: web, from: [web], methods: [GET]}]",
    "ledger": "[{id: payments, from: [payments], methods: [GET]}, {id: rotator, from: [rotator]}]",
    "rotator": "[]",
    "web": "[]",
}
RULES = """
secrets: payments
allow:
  - {id: own, from: [payments], may: [read], paths: [secret/payments/ledger]}
  - {id: rotates, from: [rotator], may: [read, write, list], paths: ['secret/payments/**']}
"""

# It asks for what is newer than what it has, and is told as soon as there is something.
PAYMENTS = """
import json, os, threading, time, urllib.error, urllib.request
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

held = {"version": 0, "password": ""}

def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()

def follow():
    while True:
        try:
            status, body = get(f"%s?wait_newer={held['version']}&wait=20s")
        except (OSError, HTTPException):
            status = 503
        if status == 200:
            told = json.loads(body)["data"]
            held.update(version=told["metadata"]["version"], password=told["data"]["password"])
        else:
            time.sleep(0.2)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        used = dict(held)
        status, _ = get("http://ledger/", **{"x-password": used["password"]})
        body = json.dumps({"version": used["version"], "ledger": status}).encode()
        self.send_response(200 if status == 200 else 502)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

threading.Thread(target=follow, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
""".replace("%s", SECRET)

# What stands for a database: some passwords are good, and whoever rotates says which.
LEDGER = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

good = set()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.headers.get("x-password") in good else 401)

    def do_PUT(self):
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        good.clear()
        good.update(said)
        self.answer(200)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def mesh(directory: Path) -> Path:
    (directory / "services").mkdir(parents=True)
    (directory / "secrets").mkdir()
    (directory / "mesh.yaml").write_text(
        "mesh: m\ntrust_domain: example.org\nenvironment: test\ndefaults: {timeout: 30s}\n"
    )
    (directory / "secrets" / "payments.yaml").write_text(RULES)
    (directory / "payments.py").write_text(PAYMENTS)
    (directory / "ledger.py").write_text(
        LEDGER
    )  # rotator and web answer nobody: it is the test that speaks for them
    apps = []
    for name, allow in SERVICES.items():
        (directory / "services" / f"{name}.yaml").write_text(
            f"service: {name}\nports: {{http: {{protocol: http}}}}\nallow: {allow}\n"
        )
        program = "payments.py" if name == "payments" else "ledger.py"
        apps.append(f"  {name}: {{run: [python, {program}]}}\n")
    (directory / "up.yaml").write_text(f"apps:\n{''.join(apps)}")
    return directory


@dataclass
class Calls:
    """Web calls payments, which calls the ledger, all the time."""

    client: httpx.AsyncClient
    version: int = 0
    made: int = 0
    failed: list[str] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            answer = await self.client.get("http://payments/")
            self.made += 1
            if answer.status_code != 200:
                self.failed.append(f"{answer.status_code} {answer.text}")
            else:
                self.version = answer.json()["version"]

    async def reach(self, version: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.version != version:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def through(running: Up, service: str) -> AsyncIterator[httpx.AsyncClient]:
    """What an app of a service sends, goes through its sidecar."""
    async with httpx.AsyncClient(
        proxy=f"http://{running.envelope['data']['egress'][service]}", timeout=60
    ) as client:
        yield client


async def answered(client: httpx.AsyncClient, method: str, url: str, body: Any = None) -> httpx.Response:
    """The first answer that is not about a mesh which is still beginning."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await client.request(method, url, json=body)).status_code in (404, 503):
            await asyncio.sleep(0.1)
        return answer


async def rotate(rotator: httpx.AsyncClient, calls: Calls, former: str, new: str) -> None:
    """New password beside the old, written, taken up by the app, and only then the old one is taken away."""
    assert (await rotator.put("http://ledger/", json=[former, new])).status_code == 200
    written = await rotator.put(SECRET, json={"data": {"password": new}})
    await calls.reach(written.json()["data"]["version"])
    assert (await rotator.put("http://ledger/", json=[new])).status_code == 200


async def test_a_rotation_reaches_a_running_app_and_no_call_fails(tmp_path: Path) -> None:
    async with (
        up(tmp_path, str(mesh(tmp_path / "mesh"))) as running,
        through(running, "rotator") as rotator,
        through(running, "web") as web,
    ):
        await answered(rotator, "PUT", "http://ledger/", ["p0"])
        assert (await answered(rotator, "POST", SECRET, {"data": {"password": "p0"}})).status_code == 200
        async with asyncio.timeout(PATIENCE):
            while (await web.get("http://payments/")).status_code != 200:
                await asyncio.sleep(0.1)
        async with asyncio.TaskGroup() as group:
            calls = Calls(web)
            calling = group.create_task(calls.run())
            for number in range(5):
                await rotate(rotator, calls, f"p{number}", f"p{number + 1}")
            made = calls.made
            async with asyncio.timeout(PATIENCE):
                while calls.made < made + 20:
                    await asyncio.sleep(0.02)
            calling.cancel()
        assert calls.failed == []
        # Who has no rule has no secret, and is told so.
        refused = await web.get(SECRET)
        assert refused.status_code == 403
        assert "no rule allows it" in json.loads(refused.content)["errors"][0]
