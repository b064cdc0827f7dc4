"""The mesh: where the intent comes from, who runs where, and what every proxy is told.

A ``Source`` (``DirectorySource`` or ``GitSource``) has the newest intent, ``Rolling`` decides which proxies are to
have it, and ``Discovery`` knows who runs where; ``Publisher`` puts them together and compiles.  Connect them in
``app``; each has a ``run`` that lasts as long as the server.
"""

from vestibule.mesh.directory import DirectorySource
from vestibule.mesh.discovery import Discovery
from vestibule.mesh.git import Following, GitSource
from vestibule.mesh.lifetimes import SvidLifetimes
from vestibule.mesh.publish import Publisher
from vestibule.mesh.rolling import Rolling
from vestibule.mesh.source import CommitInfo, Reading, Source

__all__ = [
    "CommitInfo",
    "DirectorySource",
    "Discovery",
    "Following",
    "GitSource",
    "Publisher",
    "Reading",
    "Rolling",
    "Source",
    "SvidLifetimes",
]
