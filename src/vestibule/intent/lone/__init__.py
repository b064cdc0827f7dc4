"""One file for one sidecar without a control plane, in the words of the intent and with their meaning.

It is read as the files of an intent are (``reading``), and a set of such files becomes an intent (``moving``).
"""

from vestibule.intent.lone.model import LoadedLone, Lone, Outlet, Upstream
from vestibule.intent.lone.reading import read_lone

__all__ = ["LoadedLone", "Lone", "Outlet", "Upstream", "read_lone"]
