"""``vestibule plan``: what a change means, in a terminal, in CI and against recorded calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.component.git_lab import Repository, needs
from typer.testing import CliRunner, Result

from vestibule.calls.git.process import Git
from vestibule.cli import plan as plan_command
from vestibule.cli.validate import validate
from vestibule.observe.access_record import SCHEMA

MESH = "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
ORDERS = "service: orders\nports: {http: {protocol: http}}\nallow: [{id: a, from: [web]}]\n"
WEB = "service: web\nports: {http: {protocol: http}}\nallow: [{id: a, from: [orders]}]\n"
PAYMENTS = """service: payments
ports: {http: {protocol: http}}
allow:
  - {id: orders-charge, from: [orders], methods: [POST], paths: [/v1/charges]}
"""
FILES = {
    "mesh.yaml": MESH,
    "services/orders.yaml": ORDERS,
    "services/web.yaml": WEB,
    "services/payments.yaml": PAYMENTS,
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    needs("git")
    repository = Repository(tmp_path / "repository")
    repository.commit({f"mesh/{name}": text for name, text in FILES.items()})
    monkeypatch.chdir(repository.path)
    return repository


def write(repository: Repository, text: str) -> None:
    (repository.path / "mesh" / "services" / "payments.yaml").write_text(text)


def invoke(command: Callable[..., None], *arguments: str) -> Result:
    program = typer.Typer()
    program.command()(command)
    return CliRunner().invoke(program, arguments)


def plan(*arguments: str) -> Result:
    return invoke(plan_command.plan, *arguments)


def data_of(result: Result) -> Any:
    return json.loads(result.stdout)["data"]


def test_a_work_tree_is_compared_with_a_commit_of_its_repository(repository: Repository) -> None:
    write(repository, PAYMENTS.replace("[orders]", "[orders, web]"))
    result = plan("mesh", "--against", "HEAD")
    assert result.exit_code == 0, result.output
    assert (
        "+ web gains POST /v1/charges on payments  payments/orders-charge (mesh/services/payments.yaml:4:5)"
        in result.stdout
    )
    assert "1 gain, 0 losses, 0 other changes" in result.stdout


def test_lost_calls_are_findings_unless_they_are_meant(repository: Repository) -> None:
    write(repository, PAYMENTS.replace("POST", "GET"))
    lost = plan("mesh", "--against", "HEAD")
    assert lost.exit_code == 1
    assert (
        f"- orders loses POST /v1/charges on payments  payments/orders-charge ({repository.head[:12]}:mesh/services/"
        in lost.stdout
    )
    assert plan("mesh", "--against", "HEAD", "--allow-loss").exit_code == 0


def test_what_is_written_differently_and_means_the_same_changes_nothing(repository: Repository) -> None:
    write(repository, PAYMENTS.replace("methods: [POST]", "methods:  [ POST ]"))
    result = plan("mesh", "--against", "HEAD")
    assert (result.exit_code, "nothing changes" in result.stdout) == (0, True)


def test_two_commits_are_compared_by_any_name(repository: Repository) -> None:
    first = repository.head
    repository.git("tag", "v1")
    repository.commit({"mesh/services/payments.yaml": PAYMENTS.replace("POST", "PUT")})
    told = data_of(plan("main:mesh", "--against", "v1:mesh", "--output", "json"))
    assert (told["from"]["version"], told["to"]["version"]) == (first[:12], repository.head[:12])
    assert [each["sentence"] for each in told["access"]] == [
        "orders gains PUT /v1/charges on payments",
        "orders loses POST /v1/charges on payments",
    ]
    assert told["access"][0]["example"] == {"method": "PUT", "path": "/v1/charges"}
    assert told["losses"] == 1


def test_a_broken_intent_is_told_with_positions(repository: Repository) -> None:
    repository.commit({"mesh/services/payments.yaml": PAYMENTS.replace("from", "form")})
    for arguments in (("HEAD:mesh", "--against", "HEAD~1:mesh"), ("HEAD~1:mesh", "--against", "HEAD:mesh")):
        result = plan(*arguments, "--output", "json")
        assert result.exit_code == 1
        errors = json.loads(result.stdout)["errors"]
        assert errors[0]["where"].startswith(f"{repository.head[:12]}:mesh/services/payments.yaml:4:")
    assert "VST0020" in plan("mesh", "--against", "HEAD~1", "--output", "markdown").stdout


def test_a_commit_that_is_not_there_is_named(repository: Repository) -> None:
    result = plan("mesh", "--against", "origin/main", "--output", "json")
    assert result.exit_code != 0
    assert json.loads(result.stdout)["errors"][0]["code"] == "VST3230"


@pytest.mark.parametrize("name", ["--output=x", "-x", "--upload-pack=touch sprung:mesh"])
def test_a_name_is_no_option_of_git(repository: Repository, name: str) -> None:
    assert plan("mesh", f"--against={name}").exit_code != 0
    assert not (repository.path / "sprung").exists()


def test_a_strangers_repository_runs_nothing_of_its_own(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a partial clone lacks is fetched by a program that its configuration names, by any git before 2.45."""

    def environment(self: Git) -> dict[str, str]:
        return {name: value for name, value in known(self).items() if name != "GIT_NO_LAZY_FETCH"}

    known = Git.environment
    monkeypatch.setattr(Git, "environment", environment)
    repository.git("config", "uploadpack.allowFilter", "true")
    options = ("--quiet", "--no-local", "--filter=blob:none", "--no-checkout")
    repository.git("clone", *options, f"file://{repository.path}", str(tmp_path / "partial"))
    monkeypatch.chdir(tmp_path / "partial")
    sprung = tmp_path / "sprung"
    program = f"touch {sprung}; git-upload-pack"
    repository.git("-C", str(tmp_path / "partial"), "config", "remote.origin.uploadpack", program)
    assert plan("HEAD:mesh", "--against", "HEAD:mesh").exit_code != 0
    assert not sprung.exists()


def test_markdown_says_the_same_and_holds_no_markup_of_others(repository: Repository) -> None:
    write(repository, PAYMENTS.replace("/v1/charges", "/v1/_x_/@all"))
    text = plan("mesh", "--against", "HEAD", "--output", "markdown").stdout
    assert text.startswith("### Intent plan: 1 gain, 1 loss, 0 other changes\n")
    assert "🔴 orders loses POST /v1/charges on payments" in text
    assert r"🟢 orders gains POST /v1/\_x\_/\@all on payments" in text


# ------------------------------------------------------------------------------------------------ replay


def line(method: str = "POST", path: str = "/v1/charges", caller: str = "orders", **more: Any) -> str:
    record = {
        "schema": SCHEMA,
        "time": datetime(2026, 11, 20, 12, tzinfo=UTC).isoformat(),
        "layer": "http",
        "direction": "inbound",
        "verdict": "allowed",
        "reporter_service": "payments",
        "reporter_spiffe_id": "spiffe://example.org/ns/prod/sa/payments",
        "reporter_instance": "i-1",
        "source_spiffe_id": f"spiffe://example.org/ns/prod/sa/{caller}",
        "destination_service": "payments",
        "destination_port": "http",
        "method": method,
        "path": path,
        **more,
    }
    return json.dumps(record) + "\n"


def test_recorded_calls_that_would_be_denied_are_counted_with_the_rule_that_allowed_them(
    repository: Repository, tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    outbound = line(direction="outbound", reporter_service="orders")
    refused = line(verdict="refused", source_spiffe_id="")
    elsewhere = line(destination_service="gone")
    log.write_text(line() * 12 + line("GET") * 3 + outbound + refused + elsewhere)
    write(repository, PAYMENTS.replace("POST", "GET"))
    result = plan("mesh", "--against", "HEAD", "--replay", str(log))
    assert result.exit_code == 1
    assert (
        "of 15 requests 12 would be denied, 3 would newly be allowed, 1 more went to what neither intent has"
        in result.stdout
    )
    assert (
        "- orders → payments/http POST /v1/charges: 12 requests, the last at 2026-11-20T12:00:00Z"
        in result.stdout
    )
    told = data_of(plan("mesh", "--against", "HEAD", "--replay", str(log), "--output", "json"))["replay"]
    (denied,) = told["denied"]
    assert (denied["requests"], denied["rule"], denied["paths"]) == (
        12,
        "payments/orders-charge",
        ["/v1/charges"],
    )
    assert denied["where"] == f"{repository.head[:12]}:mesh/services/payments.yaml:4:5"
    assert told["would_be_allowed"] == 3


def test_what_comes_in_plain_text_is_judged_by_what_anybody_may_do(
    repository: Repository, tmp_path: Path
) -> None:
    """The way from permissive to strict: whoever still calls without an identity is told of before it ends."""
    until = "permissive_until: 2027-12-31T00:00:00Z, reason: old"
    permissive = f"{PAYMENTS}mtls: {{{until}, allow: [{{id: reads, methods: [GET], paths: [/v1/**]}}]}}\n"
    write(repository, permissive)
    plain: dict[str, Any] = {"source_spiffe_id": "", "plaintext": True}
    at_the_edge = line("GET", destination_service="edge", **plain)
    (log := tmp_path / "access.jsonl").write_text(line("GET", **plain) * 3 + line(**plain) + at_the_edge)
    opened = plan("mesh", "--against", "HEAD", "--replay", str(log))
    assert "+ anybody in plain text gains GET /v1/** on payments" in opened.stdout
    assert "of 4 requests none would be denied, 3 would newly be allowed" in opened.stdout
    repository.commit({"mesh/services/payments.yaml": permissive})
    write(repository, PAYMENTS)
    closed = plan("mesh", "--against", "HEAD", "--replay", str(log))
    assert "- anybody in plain text loses GET /v1/** on payments" in closed.stdout
    assert "- anybody in plain text → payments/http GET /v1/charges: 3 requests" in closed.stdout


def test_a_line_that_is_no_record_is_named_and_one_still_being_written_is_not(
    repository: Repository, tmp_path: Path
) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text(line() + '{"schema": "vestibule.acc')
    assert plan("mesh", "--against", "HEAD", "--replay", str(log)).exit_code == 0
    log.write_text(line() + "{}\n" + line())
    result = plan("mesh", "--against", "HEAD", "--replay", str(log), "--output", "json")
    assert json.loads(result.stdout)["errors"][0]["where"] == f"{log}:2"
    assert plan("mesh", "--against", "HEAD", "--replay", str(tmp_path / "gone")).exit_code != 0


def test_validate_checks_a_commit_too(repository: Repository) -> None:
    repository.commit({"mesh/services/payments.yaml": PAYMENTS.replace("from", "form")})
    broken = invoke(validate, "HEAD:mesh", "--output", "json")
    assert broken.exit_code == 1
    assert json.loads(broken.stdout)["errors"][0]["where"].startswith(
        f"{repository.head[:12]}:mesh/services/"
    )
    good = invoke(validate, "HEAD~1:mesh")
    assert (good.exit_code, "3 services" in good.stdout) == (0, True)


def test_one_environment_of_several_is_planned(repository: Repository) -> None:
    environments = {
        f"mesh/environments/{name}/mesh.yaml": MESH.replace("prod", name) for name in ("prod", "staging")
    }
    (repository.path / "mesh" / "mesh.yaml").unlink()
    repository.commit(environments)
    own = repository.path / "mesh" / "environments" / "staging" / "services" / "payments.yaml"
    own.parent.mkdir()
    own.write_text(PAYMENTS.replace("POST", "PUT"))
    staging = plan("mesh", "--against", "HEAD", "--environment", "staging")
    assert "orders gains PUT /v1/charges on payments" in staging.stdout
    assert "nothing changes" in plan("mesh", "--against", "HEAD", "--environment", "prod").stdout
    assert plan("mesh", "--against", "HEAD").exit_code == 1
