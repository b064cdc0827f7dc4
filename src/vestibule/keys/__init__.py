"""Where private keys of authorities live: the port, a manager in memory, one on disk, and sealing."""

from vestibule.keys.ports import KeyManager

__all__ = ["KeyManager"]
