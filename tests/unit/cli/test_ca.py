"""``vestibule ca``, as people type it: files, refusals, exit codes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli
from vestibule.testing.softhsm import SoftToken, softhsm_module

PASSPHRASE = "correct horse battery staple"
Typed = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command; gives its exit code and the envelope that it answered with."""

    def run(*words: str | Path) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as end:
            cli.main([*map(str, words), "--output", "json"])
        return int(end.value.code or 0), json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE)
    return path


def init(directory: Path, *options: str | Path) -> tuple[str | Path, ...]:
    return ("ca", "init", "--name", "root", "--trust-domain", "example.org", "--dir", directory, *options)


def request(directory: Path, out: Path, name: str = "prod-2026-Q4") -> tuple[str | Path, ...]:
    words = ("--name", name, "--trust-domain", "example.org")
    return ("ca", "request", "--dir", directory, *words, "--out", out)


def codes(answer: dict[str, Any]) -> list[str]:
    return [each["code"] for each in answer["errors"]]


def test_a_ceremony_from_end_to_end(typed: Typed, secret: Path, tmp_path: Path) -> None:
    root, prod = tmp_path / "root", tmp_path / "prod"
    by = ("--dir", root, "--passphrase-file", secret)
    assert typed(*init(root, "--passphrase-file", secret))[0] == 0
    code, asked = typed(*request(prod, tmp_path / "prod.csr"))
    assert (code, asked["schema"]) == (0, "vestibule.ca-request/v1")
    sign = ("ca", "sign", tmp_path / "prod.csr", *by, "--out", tmp_path / "prod.pem")
    assert typed(*sign, "--expect-key", "00")[0] == 4
    code, signed = typed(*sign, "--expect-key", asked["data"]["key_id"], "--lifetime", "95d")
    assert (code, signed["data"]["name"], signed["data"]["path_length"]) == (0, "prod-2026-Q4", 1)
    install = ("ca", "install", tmp_path / "prod.pem", "--dir", prod)
    assert codes(typed(*install)[1]) == ["VST9100"]
    assert typed(*install, "--root", root / "root.pem")[0] == 0
    assert typed("ca", "revoke", "prod-2026-Q4", "--reason", "superseded", *by)[0] == 0
    code, made = typed("ca", "crl", *by, "--out", tmp_path / "root.crl")
    assert (code, made["data"]["number"], made["data"]["revoked"]) == (0, 1, [signed["data"]["serial"]])
    shown = typed("ca", "show", "--dir", root)[1]["data"]
    assert (shown["steps"], shown["crl_number"], shown["keys"]) == (4, 1, "file")
    transcripts = (root / "transcript.txt", prod / "transcript.txt")
    code, verified = typed("ca", "transcript", "verify", *transcripts, "--root", root / "root.pem")
    assert (code, verified["data"]["whole"]) == (0, True)
    assert verified["data"]["files"][0]["last_hash"] == shown["last_hash"]

    text = transcripts[0].read_text().replace("superseded", "affiliated")
    (tmp_path / "changed").write_text(text)
    code, told = typed("ca", "transcript", "verify", tmp_path / "changed", "--root", root / "root.pem")
    assert (code, told["data"]["whole"]) == (1, False)

    for path in (*root.rglob("*"), *prod.rglob("*"), *tmp_path.glob("prod.*"), tmp_path / "root.crl"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert PASSPHRASE not in "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path != secret
    )


def test_nothing_is_ever_overwritten(typed: Typed, secret: Path, tmp_path: Path) -> None:
    root, prod = tmp_path / "root", tmp_path / "prod"
    typed(*init(root, "--passphrase-file", secret))
    typed(*request(prod, tmp_path / "prod.csr"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    by = ("--dir", root, "--passphrase-file", secret)
    for words in (
        init(root, "--passphrase-file", secret),
        request(prod, tmp_path / "again.csr"),
        request(prod, tmp_path / "prod.csr", "other"),
        ("ca", "sign", tmp_path / "prod.csr", *by, "--out", tmp_path / "prod.csr"),
        ("ca", "crl", *by, "--out", tmp_path / "prod.csr"),
    ):
        code, answer = typed(*words)
        assert (code, codes(answer)) == (4, ["VST1380"]), words
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_wrong_or_weak_passphrase_is_named_and_changes_nothing(
    typed: Typed, secret: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    secret.write_text("too short")
    code, answer = typed(*init(root, "--passphrase-file", secret))
    assert (code, codes(answer)) == (2, ["VST1034"])
    assert not (root / "root.key").exists()
    secret.write_text(PASSPHRASE)
    typed(*init(root, "--passphrase-file", secret))
    secret.write_text(PASSPHRASE + "!")
    code, answer = typed("ca", "crl", "--dir", root, "--passphrase-file", secret, "--out", tmp_path / "crl")
    assert (code, codes(answer)) == (4, ["VST1033"])
    secret.chmod(0o644)
    code, answer = typed("ca", "crl", "--dir", root, "--passphrase-file", secret, "--out", tmp_path / "crl")
    assert (code, codes(answer)) == (4, ["VST1105"])
    assert len(json.dumps(answer)) < 2000
    assert typed("ca", "show", "--dir", root)[1]["data"]["steps"] == 1


def test_a_passphrase_comes_from_a_descriptor_and_is_not_waited_for_without_a_person(
    typed: Typed, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode() + b"\n")
    os.close(writing)
    assert typed(*init(tmp_path / "root", "--passphrase-fd", str(reading)))[0] == 0
    code, answer = typed("ca", "crl", "--dir", tmp_path / "root", "--out", tmp_path / "crl")
    assert (code, codes(answer)) == (4, ["VST1105"])


def test_the_key_of_another_root_is_not_used(typed: Typed, secret: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        typed(*init(directory, "--passphrase-file", secret))
    (one / "root.key").write_bytes((two / "root.key").read_bytes())
    code, answer = typed("ca", "crl", "--dir", one, "--passphrase-file", secret, "--out", tmp_path / "crl")
    assert (code, codes(answer)) == (4, ["VST1105"])


@pytest.mark.parametrize("name", ["../root", "a b", ""])
def test_a_name_that_is_none_is_refused_before_a_key_is_made(
    typed: Typed, secret: Path, tmp_path: Path, name: str
) -> None:
    words = ("--trust-domain", "example.org", "--dir", tmp_path / "root", "--passphrase-file", secret)
    assert codes(typed("ca", "init", "--name", name, *words)[1]) == ["VST1031"]
    assert not (tmp_path / "root" / "root.key").exists()


def test_where_the_key_is_has_to_be_said(typed: Typed, tmp_path: Path) -> None:
    for words in (
        ("ca", "request", "--out", tmp_path / "x"),
        ("ca", "request", "--server", "--dir", tmp_path, "--out", tmp_path / "x"),
    ):
        code, answer = typed(*words)
        assert (code, codes(answer)) == (2, ["VST9100"])


@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM2 is not installed")
def test_a_root_whose_key_never_leaves_a_token(typed: Typed, tmp_path: Path) -> None:
    token = SoftToken(tmp_path / "token")
    module = str(softhsm_module())
    options = ("--pkcs11-module", module, "--pkcs11-token", token.label, "--pkcs11-pin-file", token.pin_file)
    root, prod = tmp_path / "root", tmp_path / "prod"
    code, made = typed(*init(root, "--keys", "pkcs11", *options))
    assert (code, made["data"]["keys"]) == (0, f"pkcs11 {token.label} root")
    assert not (root / "root.key").exists()
    typed(*request(prod, tmp_path / "prod.csr"))
    by = ("--dir", root, *options)
    assert typed("ca", "sign", tmp_path / "prod.csr", *by, "--out", tmp_path / "prod.pem")[0] == 0
    assert typed("ca", "revoke", "prod-2026-Q4", *by)[0] == 0
    assert typed("ca", "crl", *by, "--out", tmp_path / "crl")[0] == 0
    verify = ("ca", "transcript", "verify", root / "transcript.txt", "--root", root / "root.pem")
    assert typed(*verify)[0] == 0
    code, answer = typed("ca", "crl", "--dir", root, "--out", tmp_path / "other")
    assert (code, codes(answer)) == (2, ["VST9100"])
    code, answer = typed(*init(tmp_path / "again", "--keys", "pkcs11", *options))
    assert codes(answer) == ["VST9100"], "a key in the token is never replaced, either"
