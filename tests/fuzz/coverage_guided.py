"""Feeds the parsers what reaches new code in them (libFuzzer through atheris); stops at the first broken promise.

    python -m tests.fuzz.coverage_guided [--runs 200000] [--target jwt] [--corpus DIRECTORY]

Without --target the first byte of each input chooses one.  What broke a promise is written to the working directory,
and is an input for the same command: python -m tests.fuzz.coverage_guided --target jwt crash-...
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vestibule"]):
    from tests.fuzz.targets import TARGETS

NAMES = tuple(sorted(TARGETS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--target", choices=NAMES)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument(
        "--seed", type=int, default=0, help="for the same inputs again; 0 makes others each time"
    )
    parser.add_argument("inputs", nargs="*", help="run these files only")
    given = parser.parse_args()

    def one(data: bytes) -> None:
        if given.target:
            TARGETS[given.target].run(data)
        elif data:
            TARGETS[NAMES[data[0] % len(NAMES)]].run(data[1:])

    with tempfile.TemporaryDirectory() as scratch:
        corpus = given.corpus or Path(scratch)
        corpus.mkdir(exist_ok=True)
        for number, name in enumerate(NAMES):
            for index, seed in enumerate(TARGETS[name].seeds()):
                (corpus / f"{name}-{index}").write_bytes(seed if given.target else bytes([number]) + seed)
        where = given.inputs or [str(corpus)]
        atheris.Setup(
            [
                sys.argv[0],
                f"-runs={given.runs}",
                f"-seed={given.seed}",
                "-max_len=4096",
                # Of the wall clock, and machines stand still at times.
                "-timeout=60",
                "-verbosity=1",
                *where,
            ],
            one,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
