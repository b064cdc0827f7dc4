"""What a client of Vault's sees of versioned secrets: statuses and bodies, through the whole of the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from vestibule.audit import AuditEvent
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import VaultRequest
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.secrets.versions import Actor, Versions
from vestibule.spiffe import SpiffeId
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock

ANN = SpiffeId.parse("spiffe://example.org/ann")


class Everybody:
    """``secrets.ports.Access``: everything may be done by everybody, until it may not."""

    allowed = True

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        return AccessDecision(allowed=self.allowed, rule=f"{path}/{verb.value}" if self.allowed else None)


class Heard:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.events.extend(events)


class Client:
    """Asks over HTTP, in memory."""

    def __init__(self) -> None:
        self.heard, self.access = Heard(), Everybody()
        self.versions = Versions(MemoryBarrier(), FakeClock())
        pipeline = Pipeline(
            {"secret": KvBackend(self.versions)}, self.access, self.heard, is_operator=self.is_operator
        )
        app = VaultApp(pipeline.answer, lambda _: ANN)
        self.operator = False
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://secrets/v1/secret/",
            headers={"x-forwarded-client-cert": "ann", "x-request-id": "r-1"},
        )

    def is_operator(self, _: VaultRequest) -> bool:
        return self.operator

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status, and what the body says; None for none."""
        content = b"" if body is None else json.dumps(body).encode()
        response = await self.http.request(method, path, content=content)
        if not response.content:
            return response.status_code, None
        assert response.headers["content-type"] == "application/json"
        return response.status_code, response.json()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    async with client.http:
        yield client


def envelope(data: object, *, warnings: list[str] | None = None) -> dict[str, object]:
    return {
        "request_id": "r-1",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": data,
        "wrap_info": None,
        "warnings": warnings,
        "auth": None,
    }


METADATA = {
    "created_time": "2026-01-01T00:00:00Z",
    "custom_metadata": None,
    "deletion_time": "",
    "destroyed": False,
    "version": 1,
}


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_write_and_a_read(client: Client, method: str) -> None:
    assert await client.ask(method, "data/a/b", {"data": {"n": 1}}) == (200, envelope(METADATA))
    read = envelope({"data": {"n": 1}, "metadata": METADATA})
    assert await client.ask("GET", "data/a/b") == (200, read)
    assert await client.ask("GET", "data/a/b?version=1") == (200, read)


async def test_what_is_not_there(client: Client) -> None:
    for method, path in (
        ("GET", "data/a"),
        ("GET", "metadata/a"),
        ("LIST", "metadata/a"),
        ("GET", "subkeys/a"),
    ):
        assert await client.ask(method, path) == (404, {"errors": []})
    assert (await client.ask("PATCH", "data/a", {"data": {}})) == (404, {"errors": []})


async def test_what_is_deleted(client: Client) -> None:
    await client.ask("POST", "data/a", {"data": {"n": 1}})
    assert await client.ask("DELETE", "data/a") == (204, None)
    gone = {"data": None, "metadata": {**METADATA, "deletion_time": "2026-01-01T00:00:00Z"}}
    assert await client.ask("GET", "data/a") == (404, envelope(gone))
    assert await client.ask("POST", "undelete/a", {"versions": [1]}) == (204, None)
    assert (await client.ask("GET", "data/a"))[0] == 200
    assert await client.ask("POST", "destroy/a", {"versions": [1]}) == (204, None)
    gone = {"data": None, "metadata": {**METADATA, "destroyed": True}}
    assert await client.ask("GET", "data/a") == (404, envelope(gone))
    assert await client.ask("DELETE", "metadata/a") == (204, None)
    assert await client.ask("GET", "data/a") == (404, {"errors": []})


async def test_a_failed_check_is_a_bad_request_in_vaults_words(client: Client) -> None:
    await client.ask("POST", "data/a", {"data": {"n": 1}})
    for options, words in (
        ({"cas": 7}, "VST5103 check-and-set parameter did not match the current version"),
        ({"cas": "x"}, "VST5110 error parsing check-and-set parameter"),
    ):
        status, told = await client.ask("POST", "data/a", {"data": {}, "options": options})
        assert (status, told) == (400, {"errors": [words]})
    await client.ask("POST", "metadata/a", {"cas_required": True})
    status, told = await client.ask("POST", "data/a", {"data": {}})
    assert (status, told) == (400, {"errors": ["VST5104 check-and-set parameter required for this call"]})


async def test_a_list_by_the_method_or_by_the_query(client: Client) -> None:
    for path in ("a", "b/c"):
        await client.ask("POST", f"data/{path}", {"data": {}})
    listed = 200, envelope({"keys": ["a", "b/"]})
    for method, path in (("LIST", "metadata"), ("LIST", "metadata/"), ("GET", "metadata?list=true")):
        assert await client.ask(method, path) == listed


async def test_warnings_come_in_the_envelope(client: Client) -> None:
    status, told = await client.ask("GET", "a")
    assert (status, told["data"], len(told["warnings"])) == (404, None, 1)
    client.operator = True
    assert await client.ask("POST", "config", {"cas_required": True}) == (204, None)
    status, told = await client.ask("POST", "metadata/a", {"cas_required": False})
    assert (status, told["data"], len(told["warnings"])) == (200, None, 1)


async def test_the_mount_is_configured_by_operators_alone(client: Client) -> None:
    status, told = await client.ask("POST", "config", {"max_versions": 2})
    assert status == 403
    assert "VST52" in told["errors"][0]
    status, told = await client.ask("GET", "config")
    assert (status, told["data"]["max_versions"]) == (200, 0)


async def test_who_may_no_longer_read_when_it_comes_does_not_get_it(client: Client) -> None:
    await client.ask("POST", "data/a", {"data": {"n": 1}})
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        waiting = group.create_task(client.ask("GET", "data/a?wait_newer=1&wait=50s"))
        while not client.versions.watching.waiting:
            await asyncio.sleep(0)
        client.access.allowed = False
        await client.versions.put("a", {"n": 2}, Actor(name="bob"))
        status, told = await waiting
    assert status == 403
    assert "no rule allows it" in told["errors"][0]


async def test_the_record_says_which_version_and_never_what_it_holds(client: Client) -> None:
    await client.ask("POST", "data/a", {"data": {"password": "planted"}})
    await client.ask("PATCH", "data/a", {"data": {"password": "planted too"}})
    await client.ask("GET", "data/a")
    await client.ask("POST", "rollback/a", {"version": 1})
    told = [
        (each.action, each.subject, each.outcome, each.details.get("version")) for each in client.heard.events
    ]
    assert told == [
        ("secret.write", "secret/a", "requested", None),
        ("secret.write", "secret/a", "ok", 1),
        ("secret.write", "secret/a", "requested", None),
        ("secret.write", "secret/a", "ok", 2),
        ("secret.read", "secret/a", "ok", 2),
        ("secret.write", "secret/a", "requested", None),
        ("secret.write", "secret/a", "ok", 3),
    ]
    assert "planted" not in repr(client.heard.events)


async def test_a_path_has_one_spelling(client: Client) -> None:
    assert (await client.ask("POST", "data/a/b@c", {"data": {}}))[0] == 200
    assert (await client.ask("GET", "data/%61/b%40c"))[0] == 200
    for path in (
        "data/a%2Fb@c",
        "data/a%252Fb@c",
        "data/a//b@c",
        "data/a/%2e%2e/a/b@c",
        "data/a%5Cb@c",
        "data/a%00/b@c",
        "data/%EF%BD%81/b@c",
        "data/k%C3%A4se",
        "data/with%20space",
        "data/a;x=y/b@c",
        "data/*",
    ):
        status, told = await client.ask("GET", path)
        assert (status, len(told["errors"])) == (400, 1)
