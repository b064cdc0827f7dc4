"""The SDK's client for secrets: against the API itself on a loopback port, with storage in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.unit.sdk.test_tls import Holder
from tests.unit.secrets.test_access import group, identity, intent, rule

from vestibule.clock import SystemClock
from vestibule.doors.vault.operations import Answer, LeaseAnswer, Operation, VaultRequest
from vestibule.errors import VestibuleError
from vestibule.sdk import SpiffeId, authorize_member_of, server_context
from vestibule.sdk.secrets import (
    AsyncSecrets,
    NoSuchSecretError,
    SecretConflictError,
    SecretDeniedError,
    Secrets,
    SecretsError,
)
from vestibule.sdk.secrets.addresses import SecretsAddress
from vestibule.sdk.secrets.answers import Credential
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.ports import Verb
from vestibule.testing import TestAuthority
from vestibule.testing.vault import MemoryVault

ALL = ["read", "write", "list"]
LONGEST = 60
"""Seconds that a test waits for what comes by itself."""


class Leases:
    """``database/creds/NAME`` and ``sys/leases``: each credential has the number of its making."""

    def __init__(self) -> None:
        self.made = 0
        self.renewals = 0
        self.revoked: list[str] = []
        self.lasts = timedelta(hours=1)
        self.refuses_renewal = False

    def operation(self, request: VaultRequest) -> Operation | None:
        async def run() -> Answer:
            return self._answer(request)

        return Operation(verb=Verb.READ, resource=request.path, run=run, open=request.path.startswith("sys/"))

    def _answer(self, request: VaultRequest) -> Answer:
        if request.path == "sys/leases/revoke":
            self.revoked.append(request.body["lease_id"])
            return Answer()
        if request.path == "sys/leases/renew":
            self.renewals += 1
            lasts = timedelta(seconds=1) if self.refuses_renewal else self.lasts
            return Answer(
                lease=LeaseAnswer(lease_id=request.body["lease_id"], duration=lasts, renewable=True)
            )
        self.made += 1
        lease = LeaseAnswer(lease_id=f"{request.path}/{self.made}", duration=self.lasts, renewable=True)
        return Answer(data={"username": f"u{self.made}", "password": f"p{self.made}"}, lease=lease)


class Lab:
    """One secret manager, and what may be done there."""

    def __init__(self) -> None:
        self.intent = intent(group(rule(may=ALL), rule(1, paths=["database/creds/payments"])))
        self.leases = Leases()
        access = IntentAccess(lambda: self.intent, SystemClock())
        backends: dict[str, Any] = {"database": self.leases, "sys/leases": self.leases}
        self.vault = MemoryVault(access, identity("payments"), SystemClock(), backends)
        self.address = ""

    @property
    def client(self) -> AsyncSecrets:
        return AsyncSecrets(self.address)


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    made = Lab()
    async with made.vault.served() as made.address:
        yield made


async def test_what_was_written_is_read(lab: Lab) -> None:
    async with lab.client as secrets:
        assert await secrets.write("payments/db", {"password": "s3cret", "port": 5432}) == 1
        found = await secrets.read("payments/db")
        assert (found["password"], found["port"], found.version, len(found)) == ("s3cret", 5432, 1, 2)
        assert await secrets.write("secret/payments/db", {"password": "other"}) == 2
        assert (await secrets.read("payments/db", 1))["password"] == "s3cret"
        assert await secrets.list("payments") == ["db"]
        assert await secrets.list("payments/none") == []


async def test_no_value_is_in_the_text_of_what_was_read(lab: Lab) -> None:
    async with lab.client as secrets:
        await secrets.write("payments/db", {"password": "s3cret"})
        assert "s3cret" not in repr(await secrets.read("payments/db"))
        credential = await secrets.fetch_credential("database/creds/payments")
        assert credential.password == "p1"
        assert "p1" not in repr(credential)


async def test_a_refusal_names_rule_request_and_commit(lab: Lab) -> None:
    async with lab.client as secrets:
        with pytest.raises(SecretDeniedError) as refused:
            await secrets.read("orders/db")
        error = refused.value
        assert (error.code.code, error.rule, error.status) == ("VST5300", None, 403)
        assert error.request_id == lab.vault.audit.events[-1].details["request_id"]
        assert error.commit
        denial = {"id": "no", "from": ["payments"], "paths": ["secret/**"]}
        lab.intent = intent(group(rule(may=ALL), deny=[denial]))
        with pytest.raises(SecretDeniedError) as refused:
            await secrets.read("payments/db")
        assert refused.value.rule == "payments/no"


async def test_what_is_not_there_and_what_was_changed_meanwhile_are_told_apart(lab: Lab) -> None:
    async with lab.client as secrets:
        with pytest.raises(NoSuchSecretError):
            await secrets.read("payments/none")
        await secrets.write("payments/db", {"a": "b"}, expected=0)
        with pytest.raises(SecretConflictError):
            await secrets.write("payments/db", {"a": "c"}, expected=0)


async def test_a_sealed_secret_manager_says_so(lab: Lab) -> None:
    lab.vault.barrier.is_sealed = True
    async with lab.client as secrets:
        with pytest.raises(SecretsError) as refused:
            await secrets.read("payments/db")
        assert refused.value.code.code == "VST5000"


async def test_nobody_there_is_an_error_of_its_own() -> None:
    async with AsyncSecrets("http://127.0.0.1:1") as secrets:
        with pytest.raises(SecretsError) as refused:
            await secrets.read("payments/db")
        assert refused.value.code.code == "VST2407"


async def test_what_answers_something_else_is_refused() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncSecrets(address) as secrets:
            with pytest.raises(SecretsError) as refused:
                await secrets.read("payments/db")
            assert refused.value.code.code == "VST2407"


async def test_a_watch_tells_of_the_version_there_is_and_of_each_newer_one(lab: Lab) -> None:
    async with asyncio.timeout(LONGEST), lab.client as secrets, lab.client as other:
        await other.write("payments/db", {"n": 1})
        versions = secrets.watch("payments/db")
        assert (await anext(versions))["n"] == 1
        waiting = asyncio.ensure_future(anext(versions))
        await other.write("payments/db", {"n": 2})
        assert (await waiting)["n"] == 2
        await versions.aclose()  # type: ignore[attr-defined]


async def test_a_watch_goes_on_when_the_secret_manager_was_sealed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.sdk.secrets.client.PAUSE_FIRST", 0.01)
    monkeypatch.setattr("vestibule.sdk.secrets.client.PAUSE_LONGEST", 0.05)
    async with asyncio.timeout(LONGEST), lab.client as secrets, lab.client as other:
        await other.write("payments/db", {"n": 1})
        lab.vault.barrier.is_sealed = True
        waiting = asyncio.ensure_future(anext(secrets.watch("payments/db")))
        before = lab.vault.requests
        while lab.vault.requests < before + 2:
            await asyncio.sleep(0.01)
        lab.vault.barrier.is_sealed = False
        assert (await waiting)["n"] == 1


async def test_a_watch_ends_when_the_rule_is_taken_back(lab: Lab) -> None:
    async with asyncio.timeout(LONGEST), lab.client as secrets, lab.client as other:
        await other.write("payments/db", {"n": 1})
        versions = secrets.watch("payments/db", after=1)
        waiting = asyncio.ensure_future(anext(versions))
        before = lab.vault.requests
        while lab.vault.requests == before:
            await asyncio.sleep(0.01)
        # Something newer comes when the rule is gone already: it is not told.
        lab.intent = intent(group())
        from vestibule.secrets.versions import Actor

        await lab.vault.versions.put("payments/db", {"n": 2}, Actor(name="test"))
        with pytest.raises(SecretDeniedError):
            await waiting


async def test_a_credential_is_renewed_before_its_end_and_revoked_when_its_block_is_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.sdk.secrets.credentials.SOONEST", timedelta(milliseconds=10))
    lab.leases.lasts = timedelta(seconds=1)
    monkeypatch.setattr("vestibule.sdk.secrets.credentials.RENEW_AT", 0.02)
    async with asyncio.timeout(LONGEST), lab.client as secrets:
        async with secrets.credential("database/creds/payments") as login:
            while lab.leases.renewals < 3:
                await asyncio.sleep(0.01)
            assert (login.current.username, lab.leases.made) == ("u1", 1)
        assert lab.leases.revoked == ["database/creds/payments/1"]


async def test_a_credential_that_can_be_renewed_no_more_is_replaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.sdk.secrets.credentials.SOONEST", timedelta(milliseconds=10))
    monkeypatch.setattr("vestibule.sdk.secrets.credentials.RENEW_AT", 0.00001)
    lab.leases.refuses_renewal = True
    async with asyncio.timeout(LONGEST), lab.client as secrets:
        async with secrets.credential("payments") as login:
            seen = []
            async for each in login.changes():
                seen.append(each.username)
                if len(seen) == 2:
                    break
        assert seen[0] != seen[1]


async def test_a_credential_that_has_ended_is_not_handed_out(lab: Lab) -> None:
    lab.leases.lasts = timedelta(0)
    async with lab.client as secrets, secrets.credential("payments") as login:
        with pytest.raises(VestibuleError) as refused:
            _ = login.current
        assert refused.value.code.code == "VST2410"


async def test_the_blocking_client_does_the_same(lab: Lab) -> None:
    def blocking() -> tuple[object, ...]:
        with Secrets(lab.address) as secrets:
            secrets.write("payments/db", {"n": 1})
            versions = secrets.watch("payments/db")
            first = next(versions)["n"]
            secrets.write("payments/db", {"n": 2})
            second = next(versions)["n"]
            versions.close()  # type: ignore[attr-defined]
            with secrets.credential("payments") as login:
                user = login.current.username
            with pytest.raises(SecretDeniedError):
                secrets.read("orders/db")
            return first, second, user, secrets.list("payments"), secrets.read("payments/db")["n"]

    assert await asyncio.to_thread(blocking) == (1, 2, "u1", ["db"], 2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:8201", "http://127.0.0.1:8201"),
        ("https://secrets.internal", "https://secrets.internal:8200"),
        ("http://[::1]:8201/", "http://[::1]:8201"),
        ("127.0.0.1:8201", "http://127.0.0.1:8201"),
    ],
)
def test_addresses_are_the_sidecars_or_the_secret_managers(text: str, shown: str) -> None:
    assert str(SecretsAddress.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["ftp://a:1", "http://a:0", "http://a:x", "http://u:p@a:1", "http://a:1/v1", "http://"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="is not http"):
        SecretsAddress.parse(text)


def test_the_environment_says_where_it_is() -> None:
    both = {"VAULT_ADDR": "http://127.0.0.1:1", "VESTIBULE_UPSTREAM_SECRETS": "http://127.0.0.1:2"}
    assert SecretsAddress.find(None, both).port == 2
    assert SecretsAddress.find("http://127.0.0.1:3", both).port == 3
    with pytest.raises(VestibuleError, match="no address was given"):
        SecretsAddress.find(None, {})


def test_a_credential_lasts_from_when_it_was_taken() -> None:
    now = SystemClock().now()
    one = Credential(
        path="a", username="u", password="p", lease_id="", renewable=False, taken=now, ends=now + timedelta(1)
    )
    assert one.lasts == timedelta(1)


# ------------------------------------------------------------------------------------ with an SVID of one's own


@asynccontextmanager
async def over_tls(lab: Lab, authority: TestAuthority, server: SpiffeId) -> AsyncIterator[tuple[str, Holder]]:
    """The API behind mutual TLS by the SDK's own contexts: its address, and what a client holds."""
    both = [Holder.of(authority.svid(each), authority.bundle) for each in (server, identity("payments"))]
    context = server_context(both[0], authorize_member_of("example.org"))
    async with lab.vault.served(context) as address:
        yield address, both[1]


async def test_over_https_the_client_shows_its_svid_and_knows_the_secret_manager_by_its_id(lab: Lab) -> None:
    authority = TestAuthority("example.org")
    manager = SpiffeId.parse("spiffe://example.org/vestibule/secrets")
    async with (
        over_tls(lab, authority, manager) as (address, source),
        AsyncSecrets(address, source=source) as secrets,
    ):
        await secrets.write("payments/db", {"a": "b"})
        assert (await secrets.read("payments/db"))["a"] == "b"


async def test_who_is_not_the_secret_manager_is_told_nothing(lab: Lab) -> None:
    authority, before = TestAuthority("example.org"), lab.vault.requests
    async with (
        over_tls(lab, authority, identity("web")) as (address, source),
        AsyncSecrets(address, source=source) as secrets,
    ):
        with pytest.raises(SecretsError, match="VST2404") as refused:
            await secrets.write("payments/db", {"password": "canary"})
        assert refused.value.code.code == "VST2407"
        assert "canary" not in str(refused.value)
    assert lab.vault.requests == before
