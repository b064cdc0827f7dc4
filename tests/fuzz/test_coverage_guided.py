"""A short run of the coverage-guided fuzzer, so that it stays a working tool; long runs are made by hand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = 30_000


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no build for this Python"
)
def test_inputs_that_reach_new_code_break_no_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", "--runs", str(RUNS), "--seed", "1"]
    command += ["--corpus", str(tmp_path / "corpus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, errors="replace")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} runs" in done.stderr
