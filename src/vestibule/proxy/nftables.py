"""Tables of packet filters that are ours alone: made, replaced and removed in one step each.

A sidecar's rules stand in one table of its own, so that nobody else's rules are touched, and those of others cannot
come between ours.  The table's name says which run directory and which sidecar it belongs to; whoever starts next in
that directory removes the tables of sidecars that were killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.proxy.codes import NEEDS_POWER, RULES_REFUSED, TOOL_MISSING

_PREFIX: Final = "vestibule"
_PATIENCE: Final = 20.0
_PLACES: Final = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
_REFUSALS: Final = ("Operation not permitted", "you must be root", "Permission denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table, by the run directory and the sidecar's name in it.  ``replace`` and ``remove`` are atomic."""

    run_directory: Path
    owner: str

    @property
    def name(self) -> str:
        return f"{_of(self.run_directory)}_{self.owner}"

    def replace(self, chains: Sequence[str]) -> None:
        """The table shall hold these chains and nothing else.  Raises: VST7240–VST7242."""
        body = "\n".join(chains)
        # Declared before it is deleted, so that the deletion holds for a table that was not there, too.
        nft(f"table inet {self.name}\ndelete table inet {self.name}\ntable inet {self.name} {{\n{body}\n}}\n")

    def remove(self) -> None:
        """It shall not be there.  Raises: VST7240–VST7242."""
        nft(f"table inet {self.name}\ndelete table inet {self.name}\n")


def sweep(run_directory: Path, alive: Callable[[], Iterable[str]]) -> list[str]:
    """Remove the tables of this run directory whose owners are not among those alive; returns their names.

    ``alive`` is asked once the tables are known, so that a sidecar that starts meanwhile keeps its own.
    """
    found = [each for each in _tables() if each.startswith(f"{_of(run_directory)}_")]
    keep = {Table(run_directory=run_directory, owner=each).name for each in alive()}
    dead = [each for each in found if each not in keep]
    for name in dead:
        nft(f"table inet {name}\ndelete table inet {name}\n")
    return dead


def nft(rules: str) -> None:
    """Apply all of these rules or none.  Raises: VST7240, VST7241, VST7242."""
    run_tool("nft", "-f", "-", text=rules)


def run_tool(program: str, *words: str, text: str = "") -> str:
    """Run one of the network's tools; returns what it prints.  Raises: VST7240, VST7241, VST7242."""
    path = shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), _PLACES)))
    if path is None:
        raise TOOL_MISSING.error(f"there is no program {program!r} on this machine")
    try:
        done = subprocess.run(
            (path, *words), input=text, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RULES_REFUSED.error(f"{program} cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit status {done.returncode}").partition("\n")[0]
        code = NEEDS_POWER if any(each in done.stderr for each in _REFUSALS) else RULES_REFUSED
        raise code.error(f"{program} {' '.join(words)}: {said}")
    return done.stdout


def _tables() -> list[str]:
    found = json.loads(run_tool("nft", "-j", "list", "tables") or "{}")
    tables = [each["table"] for each in found.get("nftables", ()) if "table" in each]
    return [each["name"] for each in tables if each["family"] == "inet"]


def _of(run_directory: Path) -> str:
    return f"{_PREFIX}_{hashlib.sha256(os.fsencode(run_directory)).hexdigest()[:8]}"
