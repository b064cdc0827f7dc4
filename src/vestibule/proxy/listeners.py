"""Does the app listen where it should, and nowhere else?

Read from the kernel's tables and attributed to the app's own process tree: a stranger's socket neither makes an app
ready, nor is it held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from vestibule.processes import procfs
from vestibule.processes.listening import TcpListener, tcp_listeners, unix_listeners
from vestibule.proxy.codes import EXPOSED, FOREIGN_LISTENER
from vestibule.records import Address

_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound


class AppListeners:
    """Watches one app.  ``family`` gives its processes; None for an app that somebody else runs, whose ports have to
    be of the user ``owner`` then, if that is known.

    All methods read ``/proc`` and return within milliseconds.
    """

    def __init__(
        self,
        family: Callable[[], set[int]] | None,
        *,
        allow_exposed: bool,
        owner: int | None = None,
        ours: Callable[[], Collection[Address]] = tuple,
    ) -> None:
        """``ours`` is where the proxy listens itself, maybe under the number of one of the app's ports."""
        self._family = family
        self._owner = owner
        self._allow_exposed = allow_exposed
        self._ours = ours
        self._of_strangers: set[int] = set()

    def check(self, addresses: Mapping[str, Address]) -> None:
        """Raises: VST7202 if the app listens beyond loopback."""
        if self._allow_exposed:
            return
        open_to_all = [found for found in tcp_listeners() if not found.is_loopback]
        if self._family is None:
            ports = {address.port for address in addresses.values()} - {0}
            ours = {(each.host, each.port) for each in self._ours()}
            for found in open_to_all:
                if found.port in ports and (found.host, found.port) not in ours:
                    raise EXPOSED.error(f"the app listens on {found}, which other machines reach")
            return
        # What once was a stranger's socket stays one: inodes of open sockets are not reused.
        inodes = {found.inode for found in open_to_all}
        self._of_strangers &= inodes
        if not inodes - self._of_strangers:
            return
        owners = procfs.sockets_of(self._family())
        for found in open_to_all:
            if (pid := owners.get(found.inode)) is not None:
                raise EXPOSED.error(
                    f"{procfs.command_line(pid)!r} (pid {pid}) listens on {found}, which other machines reach"
                )
        self._of_strangers = inodes

    def serving(self, addresses: Mapping[str, Address]) -> bool:
        """Whether the app accepts connections at every address.  Raises: VST7203 if somebody else does."""
        tcp, unix = tcp_listeners(), unix_listeners()
        found = {name: _inodes_at(address, tcp, unix) for name, address in addresses.items()}
        if not all(found.values()):
            return False
        if self._family is None or not found:
            self._check_owner(tcp, found)
            return True
        # Owners are read after the sockets, and only now: that means looking at every process.
        owned = procfs.sockets_of(self._family()).keys()
        for name, inodes in found.items():
            if inodes & owned:
                continue
            # Its owner may have ended in between; then the socket is gone too.
            if not inodes & _inodes_at(addresses[name], tcp_listeners(), unix_listeners()):
                return False
            raise FOREIGN_LISTENER.error(
                f"another process already listens on {addresses[name]}, the app's port {name!r}"
            )
        return True

    def _check_owner(self, tcp: list[TcpListener], found: Mapping[str, set[int]]) -> None:
        for name, inodes in found.items():
            if self._owner is not None and (
                stranger := next(
                    (each for each in tcp if each.inode in inodes and each.uid != self._owner), None
                )
            ):
                raise FOREIGN_LISTENER.error(
                    f"user {stranger.uid} listens on {stranger}, the app's port {name!r}, and the app is of user "
                    f"{self._owner}"
                )

    def found(self) -> str:
        """Where the app listens now, in words."""
        owners = procfs.sockets_of(self._family()) if self._family is not None else {}
        places = [str(found) for found in tcp_listeners() if found.inode in owners]
        places += [f"unix:{path}" for path, inode in unix_listeners().items() if inode in owners]
        return ", ".join(sorted(places)) or "nowhere"


def all_listening(addresses: Iterable[Address]) -> bool:
    """Whether somebody accepts connections at every address."""
    tcp, unix = tcp_listeners(), unix_listeners()
    return all(_inodes_at(address, tcp, unix) for address in addresses)


def _inodes_at(address: Address, tcp: list[TcpListener], unix: Mapping[str, int]) -> set[int]:
    if address.path:
        inode = unix.get(address.path)
        return set() if inode is None else {inode}
    return {
        found.inode for found in tcp if found.port == address.port and found.host in (address.host, *_ANY)
    }
