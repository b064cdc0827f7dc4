"""Commits of a repository that somebody works in: read as they are, whatever its configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vestibule.calls.git.codes import GIT_UNKNOWN_REVISION
from vestibule.calls.git.places import folder
from vestibule.calls.git.process import Git
from vestibule.calls.git.trees import CommitTree

# CI often checks out as another user, who may not be judged dubious for what is only read.  So nothing may be fetched
# either: a repository's own configuration says which program fetches what a partial clone lacks, and not every git
# that is new enough knows GIT_NO_LAZY_FETCH.
_ANYWHERE = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_ALLOW_PROTOCOL": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A commit of the repository around a directory, and a folder in it."""

    commit: str
    folder: str
    git_dir: Path
    search_path: str

    @classmethod
    def find(cls, text: str, around: Path, search_path: str) -> Revision:
        """``REVISION`` or ``REVISION:FOLDER``; the folder is otherwise that of ``around``.

        ``search_path`` is where the program is, as of ``PATH``.

        Raises: VST3220, VST3221, VST3230.
        """
        name, colon, inner = text.partition(":")
        git = _git(search_path)
        found = git.run_now("-C", str(around), "rev-parse", "--absolute-git-dir", "--show-prefix")
        lines = found.output.decode("utf-8", "surrogateescape").split("\n")
        if found.status or not name or name.startswith("-"):
            raise GIT_UNKNOWN_REVISION.error(f"{text!r} is no directory, and {around} is in no repository")
        commit = git.run_now(
            *("-C", str(around), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        )
        if commit.status:
            raise GIT_UNKNOWN_REVISION.error(f"{text!r} is neither a directory nor a commit, branch or tag")
        where = folder(inner if colon else lines[1])
        return cls(
            commit=commit.output.decode("ascii").strip(),
            folder=where,
            git_dir=Path(lines[0]),
            search_path=search_path,
        )

    def tree(self) -> CommitTree:
        """Its files; to be closed."""
        return CommitTree(_git(self.search_path), self.git_dir, self.commit, self.folder)

    def place(self, file: str) -> str:
        """A file of it, as ``git show`` takes it."""
        return f"{self.commit[:12]}:{self.folder}/{file}" if self.folder else f"{self.commit[:12]}:{file}"


def _git(search_path: str) -> Git:
    return Git(path=search_path, more=_ANYWHERE)
