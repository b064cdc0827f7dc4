"""Programs of other languages: built once per run, where the language is there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
BUILDING: Final = 120.0
_ATTEMPTS: Final = 3


def needed(*tools: str) -> None:
    """Skip, with the reason, where a tool is missing; CI installs them all."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def built(*command: str, directory: Path) -> None:
    """Build it.  What it is built upon comes from other people's servers, which are asked again when one is away."""
    said = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(5.0 * attempt)
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=BUILDING)
        if done.returncode == 0:
            return
        said = done.stdout + done.stderr
    raise AssertionError(said)


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory for what is built, with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="vf", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)
