"""Where the commits are that a run follows: the repository around an intent directory, its branch, the folder in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vestibule.app.up.codes import NO_BRANCH
from vestibule.calls.git import Git


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A branch of a repository on this machine, and the folder that holds the intent."""

    repository: Path
    branch: str
    folder: str

    @classmethod
    def around(cls, directory: Path) -> Committed:
        """The branch that is checked out where ``directory`` is.  Raises: VST7306, VST3221."""
        git = Git(path=os.environ.get("PATH", os.defpath))
        found = git.run_now("-C", str(directory), "rev-parse", "--show-toplevel", "--show-prefix")
        branch = git.run_now("-C", str(directory), "symbolic-ref", "--quiet", "--short", "HEAD")
        if found.status:
            raise NO_BRANCH.error(f"{directory} is in no repository: {found.last}")
        if branch.status:
            raise NO_BRANCH.error(f"no branch is checked out where {directory} is")
        top, prefix = os.fsdecode(found.output).split("\n")[:2]
        return cls(repository=Path(top), branch=os.fsdecode(branch.output).strip(), folder=prefix.rstrip("/"))
