"""``vestibule curl`` against a real server with mutual TLS, with the SVID of a Workload API."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from tests.mtls_lab import PAYMENTS, Held, MtlsServer, payments_server, serving
from tests.ports import free_port
from tests.workload_api import in_background
from typer.testing import CliRunner, Result

from vestibule.cli.curl import curl
from vestibule.sdk import authorize_ids
from vestibule.testing import TestAuthority

WEB, OPS = "spiffe://example.org/ns/test/sa/web", "spiffe://example.org/ns/test/sa/ops"


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority("example.org")


@pytest.fixture(scope="module")
def socket(authority: TestAuthority) -> Iterator[Path]:
    """An agent's socket, where this process is web, and with the hint "operator" ops."""
    directory = Path(tempfile.mkdtemp(prefix="v", dir="/tmp"))
    with in_background(directory / "a.sock", authority, revocations=True) as endpoint:
        ops = replace(authority.svid(OPS), hint="operator")
        endpoint.do(lambda api: api.show(authority.svid(WEB), ops))
        yield directory / "a.sock"
    shutil.rmtree(directory)


@pytest.fixture
def server(authority: TestAuthority) -> Iterator[MtlsServer]:
    with payments_server(Held(authority, PAYMENTS)) as serving_payments:
        yield serving_payments


def run(socket: Path | None, *arguments: str, given: bytes = b"") -> Result:
    program = typer.Typer()
    program.command()(curl)
    more = ["--agent-socket", str(socket)] if socket is not None else []
    return CliRunner().invoke(program, [*more, *arguments], input=given)


def test_the_answer_is_printed(socket: Path, server: MtlsServer) -> None:
    said = run(socket, "--expect", str(PAYMENTS), f"{server.url}/v1")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["caller"] == WEB


def test_a_pattern_says_who_may_answer_and_a_hint_who_asks(socket: Path, server: MtlsServer) -> None:
    pattern = "spiffe://example.org/ns/*/sa/payments"
    said = run(socket, "--as", "operator", "--expect", pattern, "-v", server.url)
    assert json.loads(said.stdout)["caller"] == OPS
    assert f"we are     {OPS}" in said.stderr
    assert f"they are   {PAYMENTS}" in said.stderr
    assert "TLSv1.3" in said.stderr
    assert "< 200 OK" in said.stderr


def test_data_comes_from_the_command_line_a_file_or_standard_input(
    socket: Path, server: MtlsServer, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(b"from a file")
    for data, given in [("typed", b""), (f"@{tmp_path / 'body'}", b""), ("@-", b"piped")]:
        assert run(socket, "--expect", str(PAYMENTS), "-d", data, server.url, given=given).exit_code == 0
    assert [(each.method, each.body) for each in server.asked] == [
        ("POST", b"typed"),
        ("POST", b"from a file"),
        ("POST", b"piped"),
    ]


def test_json_has_both_identities(socket: Path, server: MtlsServer) -> None:
    said = run(socket, "--expect", str(PAYMENTS), "--output", "json", "-X", "delete", server.url)
    data = json.loads(said.stdout)["data"]
    assert (data["status"], data["own"], data["peer"]) == (200, WEB, str(PAYMENTS))
    assert json.loads(data["body"])["caller"] == WEB
    assert server.asked[0].method == "DELETE"


def test_a_body_goes_into_a_file(socket: Path, server: MtlsServer, tmp_path: Path) -> None:
    said = run(socket, "--expect", str(PAYMENTS), "--write", str(tmp_path / "answer"), server.url)
    assert said.stdout == ""
    assert json.loads((tmp_path / "answer").read_text())["caller"] == WEB


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        ([], "VST9100", 2),
        (["--expect", "spiffe://example.org/ns/test/sa/ledger"], "VST2404", 4),
        (["--expect", str(PAYMENTS), "--as", "nobody"], "VST2402", 3),
        (["--expect", "payments"], "VST1400", 2),
        (["--expect", str(PAYMENTS), "-H", "no colon"], "VST9100", 2),
        (["--expect", str(PAYMENTS), "-d", "@/nowhere/at/all"], "VST9100", 2),
    ],
)
def test_what_cannot_be_done_is_said_with_its_code(
    socket: Path, server: MtlsServer, arguments: list[str], code: str, exit_code: int
) -> None:
    said = run(socket, *arguments, server.url)
    assert code in said.output
    assert said.exit_code == exit_code
    assert not server.asked


def test_an_endpoint_that_does_not_want_us_is_told_apart(socket: Path, authority: TestAuthority) -> None:
    with payments_server(Held(authority, PAYMENTS), authorize_ids(PAYMENTS)) as server:
        said = run(socket, "--expect", str(PAYMENTS), server.url)
    assert said.exit_code in (3, 4)
    assert "VST24" in said.output


def test_an_endpoint_that_is_away_garbles_or_stalls_is_unreachable(socket: Path, server: MtlsServer) -> None:
    expected = ["--expect", str(PAYMENTS)]
    away = run(socket, *expected, f"https://127.0.0.1:{free_port()}/")
    garbled = run(socket, *expected, f"{server.url}/garbage")
    stalled = run(socket, *expected, "--max-time", "1", f"{server.url}/stall")
    for said in (away, garbled, stalled):
        assert "VST2433" in said.output
        assert said.exit_code == 3


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "https://",
        "https://u:p@x/",
        "https://x:0/",
        "https://x/a b",
        "https://[::1",
        "https://x/é",
        "payments",
    ],
)
def test_what_is_no_url_is_refused(socket: Path, url: str) -> None:
    said = run(socket, "--expect", str(PAYMENTS), url)
    assert said.exit_code == 2


def test_a_file_of_headers_that_is_no_text_is_refused(
    socket: Path, server: MtlsServer, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_bytes(b"\xff\xfe")
    said = run(socket, "--expect", str(PAYMENTS), "-H", f"@{tmp_path / 'headers'}", server.url)
    assert ("VST9100" in said.output, said.exit_code) == (True, 2)


def test_a_service_of_the_mesh_is_called_by_way_of_the_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(MtlsServer(None)) as sidecar:
        monkeypatch.setenv("VESTIBULE_EGRESS", f"http://127.0.0.1:{sidecar.port}")
        said = run(None, "http://payments/v1/charges?x=1")
        assert said.exit_code == 0, said.output
        assert sidecar.asked[0].path == "http://payments/v1/charges?x=1"
    monkeypatch.delenv("VESTIBULE_EGRESS")
    said = run(None, "http://payments/")
    assert "VST2434" in said.output
    assert said.exit_code == 4
