"""The mesh: where the intent comes from, who runs where, and what every proxy is told.

``DirectorySource`` and ``Discovery`` each hold one half of the world; ``Publisher`` puts them together and compiles.
Connect them in ``app``; each has a ``run`` that lasts as long as the server.
"""

from vestibule.mesh.discovery import Discovery
from vestibule.mesh.lifetimes import SvidLifetimes
from vestibule.mesh.publish import IntentStatus, Publisher
from vestibule.mesh.source import DirectorySource

__all__ = ["DirectorySource", "Discovery", "IntentStatus", "Publisher", "SvidLifetimes"]
