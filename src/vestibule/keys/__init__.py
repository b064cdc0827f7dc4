"""Where private keys of authorities live: the port, a manager in memory, one on disk, and sealing."""

from vestibule.keys.disk import DiskKeyManager
from vestibule.keys.kek import load_or_create_kek
from vestibule.keys.memory import MemoryKeyManager
from vestibule.keys.ports import KeyManager
from vestibule.keys.sealing import Sealer

__all__ = ["DiskKeyManager", "KeyManager", "MemoryKeyManager", "Sealer", "load_or_create_kek"]
