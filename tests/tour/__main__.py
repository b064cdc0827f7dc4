"""``python -m tests.tour``: the example shop, driven through what its mesh can do; prints what it measured.

Exits 0 only if every claim holds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tour import authorization as authorization  # its steps come after the others
from tests.tour import secrets as secrets
from tests.tour.shop import Shop
from tests.tour.steps import STEPS, Step


def main() -> int:
    """Run it."""
    arguments = _arguments()
    people = arguments.output == "text"

    def say(text: str) -> None:
        if people:
            print(text, flush=True)  # noqa: T201 - it is a command

    # Short, since sockets are in it.
    directory = Path(tempfile.mkdtemp(prefix="vtour-", dir="/tmp"))
    began = time.monotonic()
    outcomes: list[dict[str, Any]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order, like Ctrl-C
    shop = Shop(directory)
    try:
        shop.start()
        say(f"the shop is up after {shop.ready_after:.1f} s, from {shop.intent}\n")
        for step in STEPS:
            if not arguments.only or step.id in arguments.only:
                outcomes.append(_outcome(step, shop))
                _show(outcomes[-1], say)
    finally:
        try:
            shop.stop()
        finally:
            if arguments.keep:
                say(f"kept: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)
    held, seconds = sum(each["ok"] for each in outcomes), time.monotonic() - began
    holds = held == len(outcomes)
    say(
        f"\n{len(outcomes)} claims, {'all hold' if holds else f'{len(outcomes) - held} do not hold'}  ({seconds:.0f} s)"
    )
    if not people:
        document = {
            "holds": holds,
            "seconds": round(seconds, 1),
            "ready_after": shop.ready_after,
            "steps": outcomes,
        }
        print(json.dumps(document, indent=2))  # noqa: T201 - it is a command
    return 0 if holds else 1


def _outcome(step: Step, shop: Shop) -> dict[str, Any]:
    began = time.monotonic()
    measured: dict[str, Any] = {}
    try:
        said, ok = step.do(shop, measured), True
    except Exception as error:  # noqa: BLE001 - whatever keeps a claim from being shown
        said, ok = f"{type(error).__name__}: {error}", False
    seconds = round(time.monotonic() - began, 1)
    return {
        "id": step.id,
        "claim": step.claim,
        "ok": ok,
        "said": said,
        "measured": measured,
        "seconds": seconds,
    }


def _show(outcome: dict[str, Any], say: Callable[[str], None]) -> None:
    say(
        f"{'ok    ' if outcome['ok'] else 'FAILED'} {outcome['id']}: {outcome['claim']}  ({outcome['seconds']} s)"
    )
    say(f"       {outcome['said']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tour", description=__doc__)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--keep", action="store_true", help="leave the repository, the state and the logs")
    parser.add_argument("only", nargs="*", help="steps; all of them without a word")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
