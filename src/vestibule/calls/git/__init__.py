"""Git repositories, through the `git` program: what they hold is read, and never run (see docs/git.md)."""

from vestibule.calls.git.access import Access
from vestibule.calls.git.mirror import CommitFacts, Head, Mirror
from vestibule.calls.git.places import Place, Ref, folder
from vestibule.calls.git.process import Git
from vestibule.calls.git.revisions import Revision
from vestibule.calls.git.trees import CommitTree

__all__ = [
    "Access",
    "CommitFacts",
    "CommitTree",
    "Git",
    "Head",
    "Mirror",
    "Place",
    "Ref",
    "Revision",
    "folder",
]
