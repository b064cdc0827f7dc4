"""Who listens where, read from the kernel's tables instead of by connecting.

A connection would disturb the listener and could reach a stranger's; the tables name the socket, and
``procfs.sockets_of`` its owner.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
_ACCEPTS: Final = 0x10000
"""``__SO_ACCEPTCON`` in the flags of ``/proc/net/unix``."""


@dataclass(frozen=True, slots=True, order=True)
class TcpListener:
    """A TCP socket that accepts connections; ``uid`` is of the user who made it."""

    host: str
    port: int
    inode: int
    uid: int = 0

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return _without_clothes(ipaddress.ip_address(self.host)).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def tcp_listeners(pid: int | None = None) -> list[TcpListener]:
    """The TCP listeners in the network namespace of a process; of our own where ``pid`` is None."""
    directory = _net(pid)
    return [*_table(directory / "tcp"), *_table(directory / "tcp6")]


def unix_listeners(pid: int | None = None) -> dict[str, int]:
    """The Unix stream sockets that accept connections: path to inode."""
    found: dict[str, int] = {}
    try:
        with (_net(pid) / "unix").open(encoding="utf-8", errors="surrogateescape") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split(maxsplit=7)
                if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS:
                    found[fields[7].rstrip("\n")] = int(fields[6])
    except OSError:
        return found
    return found


def _net(pid: int | None) -> Path:
    return Path(f"/proc/{pid or 'self'}/net")


def _table(path: Path) -> list[TcpListener]:
    found: list[TcpListener] = []
    try:
        with path.open(encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                # Listeners come first: the thousands of connections after them need not be read.
                if fields[3] != _LISTEN:
                    break
                host, _, port = fields[1].partition(":")
                found.append(TcpListener(_host(host), int(port, 16), int(fields[9]), int(fields[7])))
    except OSError:
        # No such family, or the process just ended.
        return found
    return found


def _host(text: str) -> str:
    """The kernel prints addresses as 32-bit words in the machine's byte order.

    What listens at ``::ffff:127.0.0.1``, as all programs with gRPC's C core do, listens at ``127.0.0.1``.
    """
    raw = bytes.fromhex(text)
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    return str(_without_clothes(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))))


def _without_clothes(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
