"""``python -m tests.differential --requests 30000 --seed 7``"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.differential.comparison import compare
from tests.differential.connections import compare_connections

from vestibule.envoy import rbac


def main() -> int:
    parser = argparse.ArgumentParser(description="Decide calls three times and compare.")
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--central", action="store_true", help="let the Envoys ask a decision service")
    parser.add_argument("--grouped", action="store_true", help="write callers who are alike as one")
    parser.add_argument(
        "--connections", type=int, default=0, help="of TCP instead, to ports of so many policies"
    )
    options = parser.parse_args()
    if options.grouped:
        rbac._MANY_ALIKE = 0  # type: ignore[misc]
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as directory:
        if options.connections:
            result = compare_connections(options.connections, options.seed, Path(directory))
        else:
            result = compare(options.requests, options.seed, Path(directory), central=options.central)
    sys.stdout.write("".join(f"{line}\n" for line in result.lines()))
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
