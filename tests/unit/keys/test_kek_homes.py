"""The homes of the key-encryption key: a credential that systemd decrypted, or a file of its owner."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys.kek import is_credential, kek_home, load_or_create_kek
from vestibule.keys.sealing import KEK_BYTES


@pytest.fixture
def given(tmp_path: Path) -> re.Pattern[str]:
    """What stands for systemd's directory of credentials."""
    return re.compile(re.escape(str(tmp_path)) + "/credentials/")


def credential(tmp_path: Path, content: bytes, mode: int = 0o440) -> Path:
    directory = tmp_path / "credentials" / "vestibule-agent.service"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "kek"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_credential_is_read_also_where_an_access_list_lets_the_service_in(
    tmp_path: Path, given: re.Pattern[str]
) -> None:
    kek = os.urandom(KEK_BYTES)
    for mode in (0o400, 0o440):
        assert load_or_create_kek(credential(tmp_path, kek, mode), given) == kek


def test_a_credential_is_never_made_by_us(tmp_path: Path, given: re.Pattern[str]) -> None:
    missing = tmp_path / "credentials" / "vestibule-agent.service" / "kek"
    with pytest.raises(VestibuleError, match="VST1104") as caught:
        load_or_create_kek(missing, given)
    assert "LoadCredentialEncrypted" in caught.value.advice
    assert not missing.parent.exists()


@pytest.mark.parametrize(("content", "mode"), [(b"short", 0o400), (b"x" * 33, 0o400), (b"x" * 32, 0o444)])
def test_a_credential_of_another_kind_is_refused(
    tmp_path: Path, given: re.Pattern[str], content: bytes, mode: int
) -> None:
    with pytest.raises(VestibuleError, match="VST1104"):
        load_or_create_kek(credential(tmp_path, content, mode), given)


def test_a_link_is_no_credential(tmp_path: Path, given: re.Pattern[str]) -> None:
    path = credential(tmp_path, b"x" * KEK_BYTES)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(VestibuleError, match="VST1104"):
        load_or_create_kek(path, given)


def test_each_home_has_its_name(tmp_path: Path) -> None:
    assert is_credential(Path("/run/credentials/vestibule-agent.service/kek"))
    assert is_credential(Path("/run/user/1000/credentials/vestibule-agent.service/kek"))
    assert not is_credential(tmp_path / "kek")
    assert kek_home(Path("/run/credentials/a.service/kek")).startswith("a credential of systemd")
    assert kek_home(tmp_path / "kek").startswith("a file with mode 0600")
