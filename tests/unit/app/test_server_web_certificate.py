"""Files of a certificate that somebody else renews: what can be used is used, the rest is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.outside_lab import PublicAuthority

from vestibule.app.server_web_certificate import WebCertificate
from vestibule.doors.codes import UNUSABLE_CERTIFICATE
from vestibule.errors import VestibuleError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return PublicAuthority("Public").issue(tmp_path, "secrets.example.org")


def test_a_new_pair_is_told_and_an_old_one_is_not(files: tuple[Path, Path], tmp_path: Path) -> None:
    web = WebCertificate(*files)
    web.refresh()
    assert web.revision == 0
    for old, new in zip(files, PublicAuthority("Public").issue(tmp_path, "other.example.org"), strict=True):
        new.replace(old)
    web.refresh()
    assert (web.revision, web.content) == (1, (files[0].read_bytes(), files[1].read_bytes()))


def test_a_pair_that_does_not_fit_is_not_used(
    files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web = WebCertificate(*files)
    before = web.content
    other, _ = PublicAuthority("Public").issue(tmp_path, "other.example.org")
    files[0].write_bytes(other.read_bytes())
    web.refresh()
    assert (web.revision, web.content) == (0, before)
    assert "VST2202" in caplog.text
    assert "PRIVATE" not in caplog.text + repr(web)


def test_files_that_are_not_there_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as refused:
        WebCertificate(tmp_path / "a", tmp_path / "b")
    assert refused.value.code is UNUSABLE_CERTIFICATE
