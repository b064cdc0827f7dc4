"""Keys on disk survive restarts and crashes, and open only where they belong."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.keys import DiskKeyManager, Sealer
from vestibule.pki.keys import key_to_pkcs8, public_key_der

SEALER = Sealer(bytes(range(32)))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_a_key_survives_a_restart(directory: Path) -> None:
    public_key = await DiskKeyManager(directory, SEALER).generate("a")
    assert public_key_der(await DiskKeyManager(directory, SEALER).public_key("a")) == public_key_der(
        public_key
    )


async def test_files_and_directory_are_private_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0)
    try:
        await DiskKeyManager(directory, SEALER).generate("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "a.key").stat().st_mode) == 0o600


async def test_a_directory_that_others_could_enter_is_closed_to_them(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    await DiskKeyManager(directory, SEALER).generate("a")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_no_key_lies_on_disk_in_the_clear(directory: Path) -> None:
    keys = DiskKeyManager(directory, SEALER)
    await keys.generate("a")
    secret = key_to_pkcs8(keys._keys["a"])
    assert secret[36:68] not in (directory / "a.key").read_bytes(), "the private scalar"


async def test_a_renamed_key_file_does_not_open(directory: Path) -> None:
    await DiskKeyManager(directory, SEALER).generate("a")
    shutil.copy(directory / "a.key", directory / "b.key")
    with pytest.raises(VestibuleError, match="VST1102"):
        await DiskKeyManager(directory, SEALER).public_key("b")


async def test_another_kek_does_not_open_a_key(directory: Path) -> None:
    await DiskKeyManager(directory, SEALER).generate("a")
    with pytest.raises(VestibuleError, match="VST1102"):
        await DiskKeyManager(directory, Sealer(bytes(32))).public_key("a")


async def test_what_a_crash_left_behind_is_no_key_and_is_swept(directory: Path) -> None:
    keys = DiskKeyManager(directory, SEALER)
    await keys.generate("a")
    (directory / ".tmp-torn.key").write_bytes(b"half")
    assert await keys.key_ids() == {"a"}
    await keys.generate("b")
    assert sorted(path.name for path in directory.iterdir()) == ["a.key", "b.key"]


async def test_a_key_that_can_not_be_written_is_an_error_and_is_not_kept(directory: Path) -> None:
    directory.parent.joinpath("keys").write_text("a file where the directory should be")
    keys = DiskKeyManager(directory, SEALER)
    with pytest.raises(VestibuleError, match="VST1103"):
        await keys.generate("a")
    with pytest.raises(VestibuleError, match="VST11"):
        await keys.public_key("a")
