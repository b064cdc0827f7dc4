"""Secrets with versions: reading, writing, taking back, and others who do so at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.secrets.versions import Actor, SettingChange, Versions
from vestibule.secrets.versions.codes import (
    CAS_MISMATCH,
    CAS_REQUIRED,
    MALFORMED_PATH,
    MALFORMED_SETTINGS,
    NO_SUCH_VERSION,
    TOO_BUSY,
    VERSION_LOST,
)
from vestibule.secrets.versions.service import ATTEMPTS, SPACE, TEXTS
from vestibule.store.barrier import Change, Item, Put, Remove
from vestibule.store.codes import CONFLICT, SEALED
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.clock import START, FakeClock

ANN = Actor(name="spiffe://example.org/ann", request_id="r-1")
BOB = Actor(name="spiffe://example.org/bob", request_id="r-2")
PATH = "payments/db"


class Kept(MemoryBarrier):
    """Counts what is asked of it; ``before_apply`` lets somebody else be faster."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[tuple[str, str]] = []
        self.applied: list[Sequence[Change]] = []
        self.rivals = 0

    async def get(self, space: str, key: str) -> Item | None:
        self.gets.append((space, key))
        await asyncio.sleep(0)  # as a real one lets others run
        return await super().get(space, key)

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        await asyncio.sleep(0)
        if self.rivals:
            self.rivals -= 1
            raise CONFLICT.error("somebody else was faster")
        revisions = await super().apply(changes)
        self.applied.append(changes)
        return revisions


@pytest.fixture
def barrier() -> Kept:
    return Kept()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def versions(barrier: Kept, clock: FakeClock) -> Versions:
    return Versions(barrier, clock)


async def held(versions: Versions, number: int = 0, path: str = PATH) -> object:
    """What a version holds; "gone" if it cannot be read, None if there is none."""
    reading = await versions.read(path, number)
    if reading is None:
        return None
    return "gone" if reading.data is None else reading.data["n"]


async def put(versions: Versions, *values: int, path: str = PATH) -> None:
    for each in values:
        await versions.put(path, {"n": each}, ANN)


def refusal(error: pytest.ExceptionInfo[VestibuleError]) -> ErrorCode:
    return error.value.code


# --------------------------------------------------------------------------------------- reading, writing


async def test_what_is_written_is_read(versions: Versions, clock: FakeClock) -> None:
    written = await versions.put(PATH, {"password": "s3cret"}, ANN)
    assert (written.version.number, written.version.created, written.version.created_by) == (1, START, ANN)
    reading = await versions.read(PATH)
    assert reading is not None
    assert (reading.data, reading.version, reading.custom) == ({"password": "s3cret"}, written.version, None)


async def test_what_was_never_written_is_not_there(versions: Versions) -> None:
    assert await versions.read(PATH) is None
    assert await versions.metadata(PATH) is None
    assert await versions.list() == []
    await put(versions, 1)
    assert await versions.read(PATH, 2) is None


async def test_each_write_is_a_version_that_can_be_read(versions: Versions) -> None:
    await put(versions, 10, 20, 30)
    assert [await held(versions, number) for number in (0, 1, 2, 3)] == [30, 10, 20, 30]


async def test_the_newest_version_takes_one_look(versions: Versions, barrier: Kept) -> None:
    await put(versions, *range(12))
    barrier.gets.clear()
    await versions.read(PATH)
    assert barrier.gets == [(SPACE, PATH)]
    await versions.read(PATH, 12)
    await versions.read(PATH, 5)
    assert barrier.gets[1:] == [(SPACE, PATH), (SPACE, PATH), (TEXTS, f"{PATH}@5")]


async def test_a_write_is_one_step(versions: Versions, barrier: Kept) -> None:
    await put(versions, *range(11))
    assert len(barrier.applied) == 11
    assert [(each.space, each.key) for each in barrier.applied[-1]] == [
        (SPACE, PATH),
        (TEXTS, f"{PATH}@10"),
        (TEXTS, f"{PATH}@1"),
    ]


async def test_who_wrote_and_who_deleted_is_kept(versions: Versions) -> None:
    await put(versions, 1)
    await versions.put(PATH, {"n": 2}, BOB)
    await versions.delete(PATH, ANN)
    secret = await versions.metadata(PATH)
    assert secret is not None
    assert [each.created_by for each in secret.versions.values()] == [ANN, BOB]
    assert [each.deleted_by for each in secret.versions.values()] == [None, ANN]
    assert secret.updated_by == ANN


async def test_a_write_may_name_the_version_that_it_builds_on(versions: Versions) -> None:
    await versions.put(PATH, {"n": 1}, ANN, cas=0)
    for wrong in (0, 2):
        with pytest.raises(VestibuleError, match="did not match the current version") as refused:
            await versions.put(PATH, {"n": 2}, ANN, cas=wrong)
        assert refusal(refused) is CAS_MISMATCH
    await versions.put(PATH, {"n": 2}, ANN, cas=1)
    assert await held(versions) == 2


@pytest.mark.parametrize("everywhere", [True, False])
async def test_a_write_may_have_to_name_it(versions: Versions, *, everywhere: bool) -> None:
    change = SettingChange(cas_required=True)
    await (versions.configure_all(change) if everywhere else versions.configure(PATH, change, ANN))
    with pytest.raises(VestibuleError, match="check-and-set parameter required for this call") as refused:
        await put(versions, 1)
    assert refusal(refused) is CAS_REQUIRED
    await versions.put(PATH, {"n": 1}, ANN, cas=0)
    with pytest.raises(VestibuleError):
        await versions.patch(PATH, {"n": 2}, ANN)
    with pytest.raises(VestibuleError):
        await versions.rollback(PATH, 1, ANN)


async def test_a_patch_is_a_new_version(versions: Versions) -> None:
    await versions.put(PATH, {"a": 1, "b": {"c": 2}}, ANN)
    written = await versions.patch(PATH, {"a": None, "b": {"d": 3}}, BOB, cas=1)
    assert written is not None
    assert (written.done, written.version.number, written.version.created_by) == (True, 2, BOB)
    reading = await versions.read(PATH)
    assert reading is not None
    assert reading.data == {"b": {"c": 2, "d": 3}}


async def test_there_must_be_something_to_patch(versions: Versions) -> None:
    assert await versions.patch(PATH, {"n": 1}, ANN) is None
    await versions.configure(PATH, SettingChange(max_versions=3), ANN)
    assert await versions.patch(PATH, {"n": 1}, ANN) is None
    await put(versions, 1)
    await versions.delete(PATH, ANN)
    written = await versions.patch(PATH, {"n": 1}, ANN)
    assert written is not None
    assert (written.done, written.version.number) == (False, 1)


async def test_an_older_version_comes_back_as_a_new_one(versions: Versions) -> None:
    await put(versions, 10, 20, 30)
    for number, value in ((1, 10), (4, 10), (3, 30)):
        written = await versions.rollback(PATH, number, BOB)
        assert await held(versions) == value
        assert written.version.created_by == BOB
    assert await held(versions, 6) == 30


@pytest.mark.parametrize("number", [1, 2, 3, 9])
async def test_what_cannot_be_read_does_not_come_back(versions: Versions, number: int) -> None:
    await put(versions, 10, 20, 30, 40)
    await versions.configure(PATH, SettingChange(max_versions=4), ANN)
    await put(versions, 50)  # the first is forgotten
    await versions.delete(PATH, ANN, [2])
    await versions.destroy(PATH, ANN, [3])
    with pytest.raises(VestibuleError, match=f"version {number} of {PATH} cannot be read") as refused:
        await versions.rollback(PATH, number, ANN)
    assert refusal(refused) is NO_SUCH_VERSION


# ---------------------------------------------------------------------------------- deletion, destruction


async def test_what_is_deleted_can_come_back(versions: Versions) -> None:
    await put(versions, 10, 20, 30)
    await versions.delete(PATH, ANN)
    await versions.delete(PATH, ANN, [1, 7])
    assert [await held(versions, number) for number in (0, 1, 2, 3)] == ["gone", "gone", 20, "gone"]
    await versions.undelete(PATH, ANN, [1, 3, 7])
    assert [await held(versions, number) for number in (0, 1, 2, 3)] == [30, 10, 20, 30]


async def test_what_is_destroyed_is_forgotten_for_good(versions: Versions, barrier: Kept) -> None:
    await put(versions, 10, 20, 30)
    await versions.destroy(PATH, ANN, [1, 3, 7])
    await versions.undelete(PATH, ANN, [1, 2, 3])
    assert [await held(versions, number) for number in (0, 1, 2, 3)] == ["gone", "gone", 20, "gone"]
    assert await barrier.keys(TEXTS) == [f"{PATH}@2"]
    row = await barrier.get(SPACE, PATH)
    assert row is not None
    assert b'"n":30' not in row.value
    await put(versions, 40)
    assert [await held(versions, number) for number in (0, 2, 3)] == [40, 20, "gone"]


async def test_what_is_not_there_is_deleted_and_destroyed_without_a_trace(
    versions: Versions, barrier: Kept
) -> None:
    await versions.delete(PATH, ANN)
    await versions.undelete(PATH, ANN, [1])
    await versions.destroy(PATH, ANN, [1])
    await versions.forget(PATH)
    assert barrier.applied == []


async def test_a_forgotten_secret_begins_anew(versions: Versions, barrier: Kept) -> None:
    await put(versions, 10, 20)
    await versions.configure(PATH, SettingChange(custom={"a": "b"}), ANN)
    await versions.forget(PATH)
    assert await versions.metadata(PATH) is None
    assert await barrier.keys(TEXTS) == await barrier.keys(SPACE) == []
    await put(versions, 30)
    assert [await held(versions, number) for number in (0, 1, 2)] == [30, 30, None]


async def test_only_so_many_versions_are_kept(versions: Versions, barrier: Kept) -> None:
    await put(versions, *range(1, 14))
    secret = await versions.metadata(PATH)
    assert secret is not None
    assert (list(secret.versions), secret.current, secret.oldest) == ([*range(4, 14)], 13, 4)
    assert len(await barrier.keys(TEXTS)) == 9
    await versions.configure(PATH, SettingChange(max_versions=2), ANN)
    await put(versions, 14)
    assert [await held(versions, number) for number in (12, 13, 14)] == [None, 13, 14]
    assert await barrier.keys(TEXTS) == [f"{PATH}@13"]


async def test_one_version_is_kept_where_one_is_asked_for(versions: Versions, barrier: Kept) -> None:
    await versions.configure_all(SettingChange(max_versions=1))
    await put(versions, 10, 20)
    assert [await held(versions, number) for number in (0, 1, 2)] == [20, None, 20]
    assert await barrier.keys(TEXTS) == []


async def test_versions_end_after_their_time(versions: Versions, clock: FakeClock) -> None:
    await versions.configure_all(SettingChange(delete_after=timedelta(hours=2)))
    await versions.configure(PATH, SettingChange(delete_after=timedelta(hours=1)), ANN)
    await put(versions, 10)
    await put(versions, 10, path="other")
    clock.advance(3599)
    assert await held(versions) == 10
    clock.advance(1)
    assert await held(versions) == "gone"
    assert await held(versions, path="other") == 10
    await versions.undelete(PATH, ANN, [1])
    clock.advance(3599)
    assert await held(versions) == 10
    clock.advance(1)
    assert (await held(versions), await held(versions, path="other")) == ("gone", "gone")


async def test_the_end_of_versions_can_be_switched_off_for_all(versions: Versions, clock: FakeClock) -> None:
    await versions.configure_all(SettingChange(delete_after=timedelta(seconds=-1)))
    await versions.configure(PATH, SettingChange(delete_after=timedelta(hours=1)), ANN)
    await put(versions, 10)
    clock.advance(timedelta(days=365))
    assert await held(versions) == 10
    with pytest.raises(VestibuleError) as refused:
        await versions.configure(PATH, SettingChange(delete_after=timedelta(seconds=-1)), ANN)
    assert refusal(refused) is MALFORMED_SETTINGS


# --------------------------------------------------------------------------------------------- the rest


async def test_custom_metadata_come_with_each_version(versions: Versions) -> None:
    await versions.configure(PATH, SettingChange(custom={"owner": "ann"}), ANN)
    assert await versions.read(PATH) is None
    written = await versions.put(PATH, {"n": 1}, ANN)
    reading = await versions.read(PATH)
    assert reading is not None
    assert written.custom == reading.custom == {"owner": "ann"}


async def test_nothing_is_configured_that_must_be_there_and_is_not(versions: Versions) -> None:
    assert await versions.configure(PATH, SettingChange(max_versions=1), ANN, create=False) is None
    assert await versions.metadata(PATH) is None


async def test_folders_are_listed(versions: Versions) -> None:
    for path in ("a", "a/b", "a/c/d", "a-b", "z/y/x"):
        await put(versions, 1, path=path)
    assert await versions.list() == ["a", "a-b", "a/", "z/"]
    assert await versions.list("a") == ["b", "c/"]
    assert await versions.list("a/c/d") == []
    assert await versions.list(limit=2) == ["a", "a-b"]
    assert await versions.list(after="a-b", limit=2) == ["a/", "z/"]


async def test_a_long_folder_is_listed_page_by_page(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.secrets.versions.service.PAGE", 3)
    for number in range(8):
        await put(versions, 1, path=f"many/{number}")
    assert await versions.list("many") == [str(number) for number in range(8)]
    assert await versions.list("many", after="1", limit=5) == ["2", "3", "4", "5", "6"]


async def test_two_secrets_never_share_a_place(versions: Versions) -> None:
    await put(versions, 1, 2, 3, path="a")
    await put(versions, 11, 12, 13, path="a@1")
    assert [await held(versions, number, "a") for number in (1, 2, 3)] == [1, 2, 3]
    assert [await held(versions, number, "a@1") for number in (1, 2, 3)] == [11, 12, 13]


@pytest.mark.parametrize("path", ["", "../a", "a//b", "a/"])
async def test_odd_paths_are_refused_everywhere(versions: Versions, path: str) -> None:
    calls = [
        versions.read(path),
        versions.metadata(path),
        versions.put(path, {}, ANN),
        versions.patch(path, {}, ANN),
        versions.delete(path, ANN),
        versions.undelete(path, ANN, [1]),
        versions.destroy(path, ANN, [1]),
        versions.forget(path),
        versions.rollback(path, 1, ANN),
        versions.configure(path, SettingChange(), ANN),
        versions.wait_newer(path, 0, "ann"),
    ]
    for each in calls:
        with pytest.raises(VestibuleError) as refused:
            await each
        assert refusal(refused) is MALFORMED_PATH


async def test_nothing_is_read_or_written_while_sealed(versions: Versions, barrier: Kept) -> None:
    await put(versions, 1)
    barrier.is_sealed = True
    for call in (versions.read(PATH), versions.list(), versions.put(PATH, {}, ANN), versions.settings()):
        with pytest.raises(VestibuleError) as refused:
            await call
        assert refusal(refused) is SEALED


# ----------------------------------------------------------------------------------- others at the same time


async def test_of_many_writers_at_once_none_is_lost(versions: Versions) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(versions.put(PATH, {"n": number}, ANN))
    secret = await versions.metadata(PATH)
    assert secret is not None
    assert secret.current == 50


async def test_of_many_writers_that_build_on_one_version_one_wins(versions: Versions) -> None:
    await put(versions, 1)
    writes = [versions.put(PATH, {"n": number}, ANN, cas=1) for number in range(20)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1


async def test_servers_that_write_at_once_do_so_one_after_the_other(barrier: Kept, clock: FakeClock) -> None:
    servers = [Versions(barrier, clock) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for server in servers:
            for number in range(3):
                group.create_task(server.put(PATH, {"n": number}, ANN))
    secret = await servers[0].metadata(PATH)
    assert secret is not None
    assert secret.current == 9


async def test_a_rival_on_another_server_does_not_undo_a_check(barrier: Kept, clock: FakeClock) -> None:
    here, there = Versions(barrier, clock), Versions(barrier, clock)
    outcomes = await asyncio.gather(
        here.put(PATH, {"n": 1}, ANN, cas=0), there.put(PATH, {"n": 2}, ANN, cas=0), return_exceptions=True
    )
    failed = [each for each in outcomes if isinstance(each, VestibuleError)]
    assert [each.code for each in failed] == [CAS_MISMATCH]


async def test_a_change_is_tried_only_so_often(versions: Versions, barrier: Kept) -> None:
    changes = (
        lambda: versions.put(PATH, {"n": 2}, ANN),
        lambda: versions.forget(PATH),
        lambda: versions.configure_all(SettingChange(max_versions=2)),
    )
    await put(versions, 1)
    for change in changes:
        barrier.rivals = ATTEMPTS
        with pytest.raises(VestibuleError) as refused:
            await change()
        assert refusal(refused) is TOO_BUSY
        barrier.rivals = ATTEMPTS - 1
        await change()


async def test_a_version_that_is_pruned_while_it_is_read_is_not_there(
    versions: Versions, barrier: Kept, clock: FakeClock
) -> None:
    await versions.configure(PATH, SettingChange(max_versions=2), ANN)
    await put(versions, 1, 2)

    class Late(Kept):
        async def get(self, space: str, key: str) -> Item | None:
            if space == TEXTS:
                await put(versions, 3, 4)
            return await barrier.get(space, key)

    assert await Versions(Late(), clock).read(PATH, 1) is None


async def test_a_version_whose_row_somebody_removed_is_lost_and_not_looked_for_for_ever(
    versions: Versions, barrier: Kept
) -> None:
    await put(versions, 1, 2)
    await barrier.apply([Remove(space=TEXTS, key=f"{PATH}@1")])
    with pytest.raises(VestibuleError, match=f"version 1 of {PATH} should be there") as refused:
        await versions.read(PATH, 1)
    assert refusal(refused) is VERSION_LOST
    with pytest.raises(VestibuleError):
        await versions.rollback(PATH, 1, ANN)


async def test_other_troubles_of_storage_are_told_as_they_are(versions: Versions, barrier: Kept) -> None:
    async def full(changes: Sequence[Change]) -> tuple[int, ...]:
        assert isinstance(changes[0], Put)
        raise SEALED.error("sealed meanwhile")

    barrier.apply = full  # type: ignore[method-assign]
    with pytest.raises(VestibuleError, match="sealed meanwhile"):
        await put(versions, 1)
