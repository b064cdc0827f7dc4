"""One check for all streams that stand and fall together."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from vestibule.doors.shared_checks import SharedChecks


class Scene:
    def __init__(self) -> None:
        self.checks = SharedChecks()
        self.begun = 0
        self.verdict: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.told: list[BaseException] = []

    async def check(self) -> BaseException:
        self.begun += 1
        return await self.verdict


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_streams_of_one_key_share_a_check_and_all_hear_of_its_end() -> None:
    scene, why = Scene(), ValueError("unfit")
    with ExitStack() as streams:
        for _ in range(3):
            streams.enter_context(scene.checks.accompanying("a", scene.check, scene.told.append))
        await settle()
        assert scene.begun == 1
        scene.verdict.set_result(why)
        await settle()
        assert scene.told == [why] * 3
        # Who comes afterwards is checked anew.
        streams.enter_context(scene.checks.accompanying("a", scene.check, scene.told.append))
        await settle()
        assert scene.begun == 2
    assert len(scene.checks) == 0


async def test_a_check_lasts_until_its_last_stream_and_nobody_hears_of_that() -> None:
    scene = Scene()
    first = scene.checks.accompanying("a", scene.check, scene.told.append)
    first.__enter__()
    with scene.checks.accompanying("a", scene.check, scene.told.append):
        first.__exit__(None, None, None)
        await settle()
        assert not scene.verdict.cancelled()
    await settle()
    assert scene.verdict.cancelled()
    assert (scene.told, len(scene.checks)) == ([], 0)


async def test_a_check_that_fails_ends_its_streams() -> None:
    scene, bug = Scene(), RuntimeError("a bug")
    with scene.checks.accompanying("a", scene.check, scene.told.append):
        await settle()
        scene.verdict.set_exception(bug)
        await settle()
    assert scene.told == [bug]
