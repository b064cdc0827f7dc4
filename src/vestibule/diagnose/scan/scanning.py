"""Many endpoints, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from vestibule.diagnose.scan.endpoint import Endpoint, Settings
from vestibule.posture import Facts, Target


async def scan(
    targets: Sequence[Target],
    settings: Settings,
    *,
    concurrency: int,
    seen: Callable[[Facts], None] = lambda _: None,
) -> tuple[Facts, ...]:
    """The facts of all targets, in their order; ``seen`` is told each as it is known.

    At most ``concurrency`` endpoints are looked at at a time, each by one connection.
    """
    found: dict[Target, Facts] = {}
    left = iter(targets)

    async def work() -> None:
        for target in left:
            found[target] = await Endpoint(target, settings).look()
            seen(found[target])

    async with asyncio.TaskGroup() as tasks:
        for number in range(min(concurrency, len(targets))):
            tasks.create_task(work(), name=f"scan-{number}")
    return tuple(_in_order(targets, found))


def _in_order(targets: Sequence[Target], found: dict[Target, Facts]) -> Iterator[Facts]:
    return (found[each] for each in targets)
