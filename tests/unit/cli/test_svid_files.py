"""Files of SVIDs, and whoever reads them being told."""

from __future__ import annotations

import os
import signal
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vestibule.calls.workload_api import X509Context
from vestibule.cli.svid_files import Layout, Renewal, parse_mode, replace_file
from vestibule.errors import VestibuleError
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def context() -> X509Context:
    authority = TestAuthority("example.org", now=NOW)
    other = TestAuthority("other.org", now=NOW)
    svids = tuple(authority.svid(f"/{name}", now=NOW) for name in ("a", "b"))
    return X509Context(svids=svids, bundles=(authority.bundle, other.bundle))


def names(layout: Layout, context: X509Context) -> dict[str, tuple[str, int]]:
    return {name: (text, mode) for name, text, mode in layout.files(context)}


def test_every_identity_has_its_numbered_files(context: X509Context) -> None:
    found = names(Layout(), context)
    assert set(found) == {f"{name}.{n}.{end}" for n in "01" for name, end in
                          (("svid", "pem"), ("svid", "key"), ("bundle", "pem"))}  # fmt: skip
    assert found["svid.0.key"][1] == 0o600
    assert found["svid.0.pem"][1] == 0o644


def test_one_identity_has_files_of_given_names_and_modes(context: X509Context) -> None:
    layout = Layout(certificate="tls.crt", key="tls.key", combined="tls.pem", key_mode=0o640, federated=True)
    found = names(layout, context)
    assert list(found) == ["tls.key", "tls.crt", "tls.pem"], "keys first"
    assert found["tls.pem"] == (found["tls.key"][0] + found["tls.crt"][0], 0o640)
    assert names(Layout(bundle="ca.pem"), context)["ca.pem"][0].count("BEGIN CERTIFICATE") == 1
    assert (
        names(Layout(bundle="ca.pem", federated=True), context)["ca.pem"][0].count("BEGIN CERTIFICATE") == 2
    )
    with pytest.raises(VestibuleError, match="hint"):
        names(Layout(hint="unknown"), context)


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, "new", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(VestibuleError):
        replace_file(tmp_path / "nowhere" / "key", "new", 0o600)


@pytest.mark.parametrize("text", ["rw", "1777", "-1", "0888"])
def test_a_mode_is_octal(text: str) -> None:
    assert parse_mode("0640") == 0o640
    with pytest.raises(VestibuleError):
        parse_mode(text)


def test_the_reader_is_sent_a_signal_and_a_command_is_run(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{os.getpid()}\n")
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        done = tmp_path / "a b"
        renewal = Renewal(signal_name="SIGHUP", pid_file=pid_file, command=f"touch '{done}'")
        renewal.check()
        assert renewal.tell() == ""
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGHUP]
    assert done.exists()


@pytest.mark.parametrize("pid", ["", "0", "-1", "1", "x"])
def test_no_more_than_one_process_is_ever_signalled(tmp_path: Path, pid: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(pid)
    assert "cannot send SIGTERM" in Renewal(signal_name="SIGTERM", pid_file=pid_file).tell()


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    assert "ended with 1" in Renewal(command="false").tell()
    assert "cannot run" in Renewal(command="/no/such/program").tell()
    unsaid, nobody = Renewal(pid_file=tmp_path), Renewal(signal_name="SIGHUP")
    for wrong in (unsaid, nobody, Renewal(signal_name="X", pid_file=tmp_path)):
        with pytest.raises(VestibuleError, match="VST9100"):
            wrong.check()
