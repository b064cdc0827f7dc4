"""Transit keys: made once, rotated, trimmed and forgotten as their settings permit."""

from __future__ import annotations

from datetime import timedelta

import pytest

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.secrets.transit import ciphers
from vestibule.secrets.transit.codes import (
    KEY_EXISTS,
    KEY_KEPT,
    NOT_DONE_WITH_KEY,
    UNKNOWN_KEY,
    UNREADABLE_INPUT,
)
from vestibule.secrets.transit.engine import KeySettings, Transit
from vestibule.secrets.transit.keys import TransitKey, decoded, encoded
from vestibule.secrets.transit.kinds import KeyKind
from vestibule.store.codes import SEALED
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import FakeClock


class Lab:
    """An engine on storage in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.barrier = MemoryBarrier()
        self.transit = Transit(self.barrier, self.clock)

    async def refused(self, code: ErrorCode, work: object) -> None:
        with pytest.raises(VestibuleError) as refused:
            await work  # type: ignore[misc]
        assert refused.value.code is code


@pytest.fixture
def lab() -> Lab:
    return Lab()


def sealed(key: TransitKey, plain: bytes = b"text") -> tuple[int, bytes]:
    version = key.making(None)
    return version.number, ciphers.seal(key, version, plain, b"", b"")


@pytest.mark.parametrize("kind", [each for each in KeyKind if not each.is_rsa])
async def test_a_key_comes_back_as_it_was_kept(lab: Lab, kind: KeyKind) -> None:
    made = await lab.transit.make("cards", kind)
    assert decoded("cards", encoded(made)) == made
    assert await Transit(lab.barrier, lab.clock).key("cards") == made


async def test_making_a_key_again_changes_nothing(lab: Lab) -> None:
    made = await lab.transit.make("cards", KeyKind.AES256)
    assert await lab.transit.make("cards", KeyKind.AES256) == made


async def test_a_key_keeps_its_type(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256)
    await lab.refused(KEY_EXISTS, lab.transit.make("cards", KeyKind.CHACHA20))
    await lab.refused(KEY_EXISTS, lab.transit.make("cards", KeyKind.AES256, derived=True))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "a.", "ключ", "a" * 129, "a b", "a\n"])
async def test_a_name_is_letters_and_digits(lab: Lab, name: str) -> None:
    await lab.refused(UNREADABLE_INPUT, lab.transit.make(name, KeyKind.AES256))


async def test_only_symmetric_keys_and_ed25519_are_derived(lab: Lab) -> None:
    await lab.refused(NOT_DONE_WITH_KEY, lab.transit.make("cards", KeyKind.P256, derived=True))


async def test_after_a_rotation_the_new_version_encrypts_and_the_old_one_still_opens(lab: Lab) -> None:
    number, text = sealed(await lab.transit.make("cards", KeyKind.AES256))
    key = await lab.transit.rotate("cards")
    assert key.making(None).number == 2
    assert ciphers.unseal(key, key.version(number), text, b"", b"") == b"text"


async def test_a_key_that_is_due_is_rotated_by_its_next_use(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256, rotates_every=timedelta(hours=1))
    lab.clock.advance(timedelta(minutes=59))
    assert (await lab.transit.key("cards")).latest.number == 1
    lab.clock.advance(timedelta(minutes=1))
    assert (await lab.transit.key("cards")).latest.number == 2
    assert (await lab.transit.key("cards")).latest.number == 2


async def test_two_that_rotate_a_due_key_make_one_version(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256, rotates_every=timedelta(hours=1))
    lab.clock.advance(timedelta(hours=2))
    other = Transit(lab.barrier, lab.clock)
    found = await other._found("cards")
    assert found is not None
    await lab.transit.key("cards")
    assert (await other._rotated_once("cards", found)).latest.number == 2


async def test_a_version_out_of_use_opens_nothing_and_can_be_trimmed(lab: Lab) -> None:
    number, _ = sealed(await lab.transit.make("cards", KeyKind.AES256))
    await lab.transit.rotate("cards")
    await lab.refused(NOT_DONE_WITH_KEY, lab.transit.trim("cards", 2))
    key = await lab.transit.configure("cards", KeySettings(least_decrypting=2))
    with pytest.raises(VestibuleError, match="min_decryption_version is 2"):
        key.version(number)
    key = await lab.transit.trim("cards", 2)
    assert [each.number for each in key.versions] == [2]
    assert (await lab.transit.rotate("cards")).version(3).number == 3
    await lab.refused(NOT_DONE_WITH_KEY, lab.transit.configure("cards", KeySettings(least_decrypting=1)))


async def test_settings_name_versions_that_are_there(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256)
    await lab.refused(NOT_DONE_WITH_KEY, lab.transit.configure("cards", KeySettings(least_decrypting=2)))
    await lab.refused(NOT_DONE_WITH_KEY, lab.transit.configure("cards", KeySettings(least_encrypting=2)))
    await lab.refused(
        UNREADABLE_INPUT, lab.transit.configure("cards", KeySettings(rotates_every=timedelta(minutes=1)))
    )


async def test_an_older_version_encrypts_only_where_that_is_permitted(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256)
    key = await lab.transit.rotate("cards")
    assert key.making(1).number == 1
    key = await lab.transit.configure("cards", KeySettings(least_encrypting=2))
    with pytest.raises(VestibuleError, match="makes nothing new"):
        key.making(1)
    with pytest.raises(VestibuleError, match="no version 3"):
        key.making(3)


async def test_a_key_is_deleted_only_where_its_settings_permit_that(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.AES256)
    await lab.refused(KEY_KEPT, lab.transit.delete("cards"))
    await lab.transit.configure("cards", KeySettings(deletable=True))
    await lab.transit.delete("cards")
    assert await lab.transit.find("cards") is None
    await lab.refused(UNKNOWN_KEY, lab.transit.key("cards"))
    await lab.refused(UNKNOWN_KEY, lab.transit.rotate("cards"))


async def test_while_sealed_no_key_is_used_and_none_stays_in_memory(lab: Lab) -> None:
    await lab.transit.make("cards", KeyKind.P256)
    await lab.transit.key("cards")
    lab.transit.forget()
    assert not lab.transit._read
    assert ciphers.parsed.cache_info().currsize == 0
    lab.barrier.is_sealed = True
    await lab.refused(SEALED, lab.transit.key("cards"))


async def test_a_key_shows_nothing_secret(lab: Lab) -> None:
    key = await lab.transit.make("cards", KeyKind.AES256)
    assert repr(key.latest.material) not in repr(key)
    assert "material" not in repr(key)
    assert "mac" not in repr(key)


async def test_names_are_listed_in_order(lab: Lab) -> None:
    for name in ("b", "a", "c"):
        await lab.transit.make(name, KeyKind.AES256)
    assert await lab.transit.names() == ["a", "b", "c"]
    assert await lab.transit.names(after="a", limit=1) == ["b"]
