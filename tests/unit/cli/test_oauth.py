"""``vestibule oauth`` against the token service: as a workload, and as the operator."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doors.oauth_lab import OAuthLab, claims_of

from vestibule.app.main import cli
from vestibule.audit import AuditEvent
from vestibule.cli.secret_values import MASK
from vestibule.doors import tokens_admin
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PRIVATE, listen_unix
from vestibule.testing.loopback import served
from vestibule.testing.tokens import ISSUER, MemoryIssuer, spiffe_id
from vestibule.tokens.ports import Verb

WEB, ORDERS = str(spiffe_id("web")), str(spiffe_id("orders"))


class Lab:
    """A token service in a thread of its own, since commands run their own event loops."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "server.sock"
        self.addresses: dict[str, str] = {}
        self.corp = MemoryIssuer("corp", "https://login.corp.example", "shop")
        self.events: list[AuditEvent] = []
        self._loop = asyncio.new_event_loop()
        self._open = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._started(), self._loop).result(60)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open.aclose(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _started(self) -> None:
        self.oauth = await OAuthLab().ready()
        self._allow()
        for name in ("web", "orders", "reports"):
            app = _As(self.oauth.app, name)
            self.addresses[name] = await self._open.enter_async_context(served(app))
        door = tokens_admin.TokensAdminDoor(self.oauth.tokens.service, self)
        server, listener = GrpcServer([door.servable()]), listen_unix(self.socket, PRIVATE)
        await server.listen(listener.sock)
        self._open.callback(listener.close)
        self._open.push_async_callback(server.close)

    async def record_or_defer(self, events: Sequence[AuditEvent]) -> None:
        self.events += events

    def _allow(self) -> None:
        access = self.oauth.tokens.access
        self.oauth.tokens.trust(self.corp)
        access.allow("web", Verb.MINT, "reports", "report:read")
        access.allow("web", Verb.ADMIT, "orders", "report:read")
        access.allow("orders", Verb.EXCHANGE, "orders", "report:read")
        access.allow("orders", Verb.RECEIVE, "reports", "report:read")
        access.own("reports", "reports")


class _As:
    """The door, as one caller's sidecar leads to it."""

    def __init__(self, app: Any, name: str) -> None:
        self._app = app
        self._header = (b"x-forwarded-client-cert", str(spiffe_id(name)).encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "headers": [*scope["headers"], self._header]}, receive, send)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    patch = pytest.MonkeyPatch()
    patch.setattr(tokens_admin, "actor", lambda: "local:uid=1000")
    directory = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    made = Lab(directory)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)
        patch.undo()


Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The exit code, the JSON answer or the text, and what else was said; ``as_`` a service, else the operator."""
    for name in ("VESTIBULE_UPSTREAM_TOKENS", "VESTIBULE_EGRESS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str, given: str = "", as_: str = "", text: bool = False) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        monkeypatch.setenv("VESTIBULE_SERVER_SOCKET", str(lab.socket))
        place: list[str] = []
        if as_:
            monkeypatch.delenv("VESTIBULE_SERVER_SOCKET")
            place = ["--address", lab.addresses[as_]]
        with pytest.raises(SystemExit) as ended:
            cli(["oauth", *words, *place, *([] if text else ["--output", "json"])])
        told = capsys.readouterr()
        code = int(ended.value.code or 0)
        return code, told.out if text else json.loads(told.out), told.err

    return run


MINT = ("token", "--audience", "reports", "--scope", "report:read")


def test_a_token_goes_into_a_pipe_as_it_is(run: Run) -> None:
    code, told, _ = run(*MINT, as_="web", text=True)
    assert (code, told.count("\n")) == (0, 1)
    assert claims_of(told.strip())["sub"] == WEB
    data = run(*MINT, as_="web")[1]["data"]
    assert (data["audience"], data["scopes"], data["token_type"]) == (["reports"], ["report:read"], "Bearer")
    assert claims_of(data["access_token"])["aud"] == "reports"


def test_on_a_terminal_a_token_is_shown_only_if_that_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.cli.secret_values.sys.stdout.isatty", lambda: True, raising=False)
    shown = run(*MINT, as_="web", text=True)[1]
    assert "ey" not in shown
    assert "--raw shows the token" in shown
    assert WEB in shown
    assert run(*MINT, as_="web")[1]["data"]["access_token"] == MASK
    assert claims_of(run(*MINT, "--raw", as_="web", text=True)[1].strip())["sub"] == WEB


def test_a_token_is_written_into_a_file_of_ones_own(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "token"
    code, told, _ = run(*MINT, "--write", str(file), as_="web")
    assert (code, told["data"]["access_token"], told["data"]["file"]) == (0, MASK, str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert claims_of(file.read_text().strip())["sub"] == WEB
    assert run(*MINT, "--write", str(file), as_="web")[1]["errors"][0]["code"] == "VST9100"


def test_a_refusal_leaves_no_file_and_says_why(run: Run, tmp_path: Path) -> None:
    code, told, _ = run("token", "--audience", "ledger", "--write", str(tmp_path / "t"), as_="web")
    assert (code, told["errors"][0]["code"]) == (4, "VST6010")
    assert "for a rule" in told["errors"][0]["advice"]
    assert list(tmp_path.iterdir()) == []


def test_without_an_address_nobody_is_asked(run: Run) -> None:
    code, told, _ = run(*MINT)
    assert (code, told["errors"][0]["code"]) == (2, "VST6120")


def test_a_login_is_traded_and_handed_on(lab: Lab, run: Run, tmp_path: Path) -> None:
    now = int(datetime.now(UTC).timestamp())
    login = lab.corp.token({"sub": "user-1", "aud": "shop", "iat": now, "exp": now + 300, "jti": "cli-1"})
    (tmp_path / "login").write_text(login + "\n")
    words = ("token", "--audience", "orders", "--scope", "report:read", "--assertion-file")
    first = run(*words, str(tmp_path / "login"), as_="web", text=True)[1].strip()
    exchange = ("exchange", "--audience", "reports", "--scope", "report:read")
    second = run(*exchange, given=first, as_="orders", text=True)[1].strip()
    code, told, _ = run("inspect", given=second, as_="reports")
    assert (code, told["data"]["active"], told["data"]["actors"]) == (0, True, [ORDERS, WEB])
    assert told["data"]["claims"]["txn"] == claims_of(first)["jti"]
    shown = run("inspect", given=second, as_="reports", text=True)[1]
    assert "✓ the token holds" in shown
    assert f"{ORDERS} ← {WEB}" in shown
    assert second not in shown
    code, shown, _ = run("inspect", given=second, as_="web", text=True)
    assert (code, "does not hold, or was not made for who asks" in shown) == (1, True)


def test_what_stands_in_a_token_is_shown_without_asking_anybody(run: Run) -> None:
    token = run(*MINT, as_="web", text=True)[1]
    code, told, _ = run("inspect", given=token)
    assert (code, told["data"]["active"], told["data"]["header"]["typ"]) == (0, None, "at+jwt")
    assert "not verified" in run("inspect", given=token, text=True)[1]


@pytest.mark.parametrize("given", ["", "no token", "a.b.c", "e30.e30", "é.b.c"])
def test_what_is_no_token_is_refused_and_not_repeated(run: Run, given: str) -> None:
    code, told, _ = run("inspect", given=given)
    assert (code, told["errors"][0]["code"]) == (2, "VST9100")
    assert not given or given not in json.dumps(told, ensure_ascii=False)


def test_a_token_is_revoked_by_whoever_got_it(run: Run) -> None:
    token = run(*MINT, as_="web", text=True)[1]
    assert run("inspect", given=token, as_="reports")[0] == 0
    code, told, _ = run("revoke", "--token-file", "-", given=token, as_="web")
    assert (code, told["data"]["revoked"][0]["value"]) == (0, claims_of(token)["jti"])
    assert run("inspect", given=token, as_="reports")[0] == 1


def test_operators_revoke_by_token_client_and_subject(run: Run) -> None:
    token = run(*MINT, as_="web", text=True)[1]
    ways = [
        (("--token-file", "-"), ("token", claims_of(token)["jti"])),
        (("--token", "some-jti"), ("token", "some-jti")),
        (("--client", WEB), ("client", WEB)),
        (("--subject", "user-1"), ("subject", "user-1")),
    ]
    for words, found in ways:
        code, told, _ = run("revoke", *words, "--reason", "INC-7", given=token)
        (entry,) = told["data"]["revoked"]
        assert (code, (entry["by"], entry["value"]), entry["reason"]) == (0, found, "INC-7")
        assert entry["before"] <= entry["until"]
    listed = run("revoke", "--list")[1]["data"]["revoked"]
    assert {(each["by"], each["value"]) for each in listed} >= {found for _, found in ways}
    shown = run("revoke", "--list", text=True)[1]
    assert f"client {WEB}: tokens from before" in shown
    assert run("inspect", given=token, as_="reports")[0] == 1


@pytest.mark.parametrize("words", [(), ("--client", "x", "--subject", "y"), ("--list", "--key", "z")])
def test_exactly_one_thing_is_revoked(run: Run, words: tuple[str, ...]) -> None:
    code, told, _ = run("revoke", *words)
    assert (code, told["errors"][0]["code"]) == (2, "VST9100")


def test_keys_are_shown_rotated_and_revoked(run: Run) -> None:
    code, told, _ = run("keys")
    assert (code, told["data"]["issuer"]) == (0, ISSUER)
    assert [each["state"] for each in told["data"]["keys"]] == ["current", "next"]
    current = told["data"]["keys"][0]["key_id"]
    published = run("keys", as_="web")[1]["data"]
    assert published["issuer"] == ISSUER
    assert current in [each["key_id"] for each in published["keys"]]
    assert current in run("keys", text=True)[1]
    assert run("keys", "--rotate")[0] == 0
    code, told, _ = run("revoke", "--key", current, "--reason", "stolen")
    assert (code, told["data"]["revoked"][0]["by"]) == (0, "key")
    assert current not in [
        each["key_id"] for each in run("keys")[1]["data"]["keys"] if each["state"] == "current"
    ]
    assert run("revoke", "--key", "none")[1]["errors"][0]["code"] == "VST6031"


def test_who_has_had_tokens_is_listed(run: Run) -> None:
    run(*MINT, as_="web")
    code, told, _ = run("clients")
    assert code == 0
    (web,) = [each for each in told["data"]["clients"] if each["client"] == WEB]
    assert web["tokens"] >= 1
    assert WEB in run("clients", text=True)[1]
