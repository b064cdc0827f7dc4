"""Settings and custom metadata of secrets."""

from __future__ import annotations

from datetime import timedelta

import pytest

from vestibule.errors import VestibuleError
from vestibule.secrets.versions import Reading, SettingChange, Settings
from vestibule.secrets.versions.codes import MALFORMED_SETTINGS
from vestibule.secrets.versions.secret import MOST_CUSTOM, MOST_VERSIONS, Actor, Version, check_custom
from vestibule.testing.clock import START


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    there = Settings(max_versions=3, cas_required=True, delete_after=timedelta(hours=1))
    assert SettingChange().settings(there) == there
    assert SettingChange(max_versions=0).settings(there) == Settings(
        cas_required=True, delete_after=timedelta(hours=1)
    )
    assert SettingChange().is_empty
    assert not SettingChange(custom={}).is_empty


def test_custom_metadata_are_replaced_or_patched() -> None:
    there = {"owner": "ann", "app": "web"}
    assert SettingChange().customs(there) == there
    assert SettingChange(custom={"a": "b"}).customs(there) == {"a": "b"}
    assert SettingChange(custom={}).customs(there) is None
    assert SettingChange(custom_patch={"owner": "bob", "app": None, "no": None}).customs(there) == {
        "owner": "bob"
    }


@pytest.mark.parametrize(
    ("custom", "reason"),
    [
        ({str(number): "x" for number in range(MOST_CUSTOM + 1)}, "at most 64 keys, provided 65"),
        ({"": "x"}, "length of key"),
        ({"k" * 129: "x"}, "is 129 but must be 0 < length <= 128"),
        ({"k": ""}, "length of value for key 'k' is 0"),
        ({"k": "é" * 257}, "is 514 but"),
        ({"k": "a\nb"}, "unprintable"),
        ({"k\x00": "a"}, "unprintable"),
        ({"k": "\ud800"}, "unprintable"),
    ],
)
def test_custom_metadata_have_vaults_bounds(custom: dict[str, str], reason: str) -> None:
    check_custom({"k" * 128: "v" * 512})
    with pytest.raises(VestibuleError, match=f"custom_metadata validation failed: .*{reason}") as refused:
        check_custom(custom)
    assert refused.value.code is MALFORMED_SETTINGS


@pytest.mark.parametrize("number", [-1, MOST_VERSIONS + 1])
def test_a_number_of_versions_to_keep_has_bounds(number: int) -> None:
    with pytest.raises(VestibuleError) as refused:
        Settings(max_versions=number)
    assert refused.value.code is MALFORMED_SETTINGS


def test_what_was_read_does_not_show_itself() -> None:
    version = Version(number=1, created=START, created_by=Actor(name="ann"))
    assert "planted" not in repr(Reading(version=version, custom=None, data={"planted": "planted"}))
