"""Files of the host as the sidecar takes them up."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests.e2e.outside_lab import PublicAuthority

from vestibule.envoy.host_secrets import CertificateFiles, CredentialFile, FileSecret, PublicTrust
from vestibule.errors import VestibuleError
from vestibule.processes.users import User
from vestibule.proxy import host_files
from vestibule.proxy.host_files import HostFiles

PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def credential(path: Path, prefix: str = "") -> CredentialFile:
    return CredentialFile(file=str(path), prefix=prefix)


def why(files: HostFiles, secret: FileSecret) -> VestibuleError:
    assert files.content(secret) is None
    (problem,) = files.problems
    return problem


@pytest.mark.parametrize("content", ["t0ken", "t0ken\n", "t0ken\r\n"])
def test_a_credential_is_the_one_line_of_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_bytes(content.encode())
    assert HostFiles().content(credential(tmp_path / "token", "Bearer ")) == (b"Bearer t0ken",)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"  \n", b"s3cr3t\ntwo\n", b"s3cr3t\x00", b"s3cr3t\xc3\xb6", b"s3cr3t\rb", b"s3cr3t" * 2000],
)
def test_what_no_header_can_carry_is_no_credential_and_is_not_shown(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_bytes(content)
    problem = why(HostFiles(), credential(tmp_path / "token"))
    assert problem.code.code in ("VST7221", "VST7222")
    assert "s3cr3t" not in f"{problem} {caplog.text}"


def test_a_key_that_somebody_names_as_a_credential_is_refused(tmp_path: Path) -> None:
    _, key = PublicAuthority("Root").issue(tmp_path, "a.test")
    assert why(HostFiles(), credential(key)).code.code == "VST7222"


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "relative", "unreadable"])
def test_what_is_no_readable_file_is_called_so_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "relative":
        path = Path("token")
    elif kind == "unreadable":
        path = Path("/proc/self/mem")
    assert why(HostFiles(), credential(path)).code.code in ("VST7221", "VST7222")


def test_a_file_that_comes_later_is_taken_up_and_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        files, secret = HostFiles(), credential(tmp_path / "token")
        assert files.content(secret) is None
        waiting = asyncio.create_task(files.changed())
        await asyncio.sleep(0)
        files.look()
        await asyncio.sleep(0)
        assert not waiting.done()
        (tmp_path / "token").write_text("here")
        files.look()
        await asyncio.wait_for(waiting, 60)
        assert files.content(secret) == (b"here",)
        assert files.problems == ()

    asyncio.run(story())


def test_what_was_good_stays_in_use_when_the_file_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, secret = HostFiles(), credential(tmp_path / "token")
    (tmp_path / "token").write_text("good")
    assert files.content(secret) == (b"good",)
    (tmp_path / "token").unlink()
    files.look()
    files.look()
    assert files.content(secret) == (b"good",)
    assert [each.code.code for each in files.problems] == ["VST7221"]
    assert len(caplog.records) == 1
    assert "still used" in caplog.text
    caplog.set_level(logging.INFO)
    (tmp_path / "token").write_text("better")
    files.look()
    assert files.content(secret) == (b"better",)
    assert "can be used again" in caplog.text


def test_public_authorities_are_found_where_distributions_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tuple(tmp_path / each for each in ("debian.crt", "fedora.crt"))
    monkeypatch.setattr(host_files, "CA_BUNDLES", places)
    problem = why(HostFiles(), PublicTrust())
    assert problem.code.code == "VST7220"
    assert "fedora.crt" in problem.message
    places[1].write_bytes(PEM)
    assert HostFiles().content(PublicTrust()) == (PEM,)
    (tmp_path / "own.pem").write_bytes(PEM * 2)
    assert HostFiles(ca_bundle=tmp_path / "own.pem").content(PublicTrust()) == (PEM * 2,)


def test_a_bundle_without_certificates_is_none(tmp_path: Path) -> None:
    (tmp_path / "own.pem").write_text("nothing")
    assert why(HostFiles(ca_bundle=tmp_path / "own.pem"), PublicTrust()).code.code == "VST7220"


def pair(certificate: Path, key: Path) -> CertificateFiles:
    return CertificateFiles(certificate=str(certificate), key=str(key))


def test_a_certificate_comes_with_its_own_key_only(tmp_path: Path) -> None:
    authority = PublicAuthority("Root")
    certificate, key = authority.issue(tmp_path, "a.test")
    _, other = authority.issue(tmp_path, "a.test")
    assert HostFiles().content(pair(certificate, key)) == (certificate.read_bytes(), key.read_bytes())
    problem = why(HostFiles(), pair(certificate, other))
    assert problem.code.code == "VST7223"
    assert "not the one of the certificate" in problem.message


@pytest.mark.parametrize("kind", ["swapped", "encrypted", "ed25519", "half written"])
def test_a_pair_that_envoy_could_not_serve_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    certificate, key = PublicAuthority("Root").issue(tmp_path, "a.test")
    if kind == "swapped":
        certificate, key = key, certificate
    elif kind == "encrypted":
        locked = BestAvailableEncryption(b"secret")
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
        )
    elif kind == "ed25519":
        plain = ed25519.Ed25519PrivateKey.generate()
        key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    else:
        key.write_bytes(key.read_bytes()[:100])
    assert why(HostFiles(), pair(certificate, key)).code.code == "VST7223"


def test_an_expired_certificate_is_served_and_complained_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = PublicAuthority("Root").issue(tmp_path, "a.test")
    files = HostFiles(now=lambda: datetime.now(UTC) + timedelta(days=100))
    assert files.content(pair(certificate, key)) is not None
    assert "has expired" in caplog.text


@pytest.mark.parametrize(
    ("mode", "above", "uid", "gid", "groups", "readable"),
    [
        (0o600, 0o700, "own", "own", (), True),
        (0o600, 0o755, "other", "other", (), False),
        (0o644, 0o755, "other", "other", (), True),
        (0o644, 0o700, "other", "other", (), False),
        (0o640, 0o755, "other", "own", (), True),
        (0o640, 0o755, "other", "other", ("own",), True),
        (0o604, 0o755, "other", "own", (), False),
        (0o044, 0o755, "own", "own", (), False),
    ],
)
def test_what_envoys_own_user_may_not_read_is_not_read_for_it(
    tmp_path: Path, mode: int, above: int, uid: str, gid: str, groups: tuple[str, ...], readable: bool
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    token = here / "token"
    token.write_text("t0ken")
    token.chmod(mode)
    here.chmod(above)
    # Whoever else owns directories above is not what this is about; root may do anything.
    ids = {"own": 4711, "other": 4712}
    found = {
        path: (path.stat().st_mode if path in (here, token) else 0o40755) for path in (token, *token.parents)
    }

    def as_owned(path: Path) -> os.stat_result:
        return os.stat_result((found[path], 0, 0, 1, 4711, 4711, 0, 0, 0, 0))

    user = User(name="svc", uid=ids[uid], gid=ids[gid], groups=tuple(ids[each] for each in groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", as_owned)
        assert host_files._may_read(user, token) is readable


def test_a_file_that_envoys_user_may_not_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "token").chmod(0o600)
    stranger = User(name="svc", uid=os.geteuid() + 4711, gid=os.getegid() + 4711, groups=())
    problem = why(HostFiles(reader=stranger), credential(tmp_path / "token"))
    assert problem.code.code == "VST7221"
    assert "svc" in problem.message
