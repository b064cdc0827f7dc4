"""The boundary ``netns``: a network namespace that only a sidecar and its app live in.

The sidecar itself moves in, and what it starts is born there.  A namespace of our making has one cable (a veth pair) to
the host; it ends with the last process in it, and its cable with it, so that nothing is left after a ``kill -9``.  A
namespace that somebody else made (of a container, by ``ip netns add``) is taken as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.proxy.codes import BOUNDARY_MISFIT, NEEDS_POWER, RULES_REFUSED
from vestibule.proxy.nftables import run_tool
from vestibule.records import Address

NETWORK: Final = ipaddress.IPv4Network("100.127.0.0/16")
"""Where the cables' addresses are from, four each: shared address space (RFC 6598), no host of the Internet has any."""

_CLONE_NEWNET: Final = 0x40000000
_OWN: Final = Path("/proc/self/ns/net")
_NAMED: Final = Path("/run/netns")
_INSIDE: Final = "eth0"
_ATTEMPTS: Final = 8
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True, kw_only=True)
class Namespace:
    """The one that we moved into.  ``address`` is where the host reaches it; empty for one that was there before."""

    address: str
    _host: int

    @classmethod
    def make(cls, name: str) -> Namespace:
        """A new one, with a cable to where we came from; ``name`` is unique among sidecars, 8 letters at most.

        Raises: VST7240, VST7241, VST7242.
        """
        host = _open(_OWN)
        try:
            _call(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
            here = cls(address="", _host=host)
            run_tool("ip", "link", "set", "lo", "up")
            here._connect(f"vst{name}")
        except BaseException:
            with contextlib.suppress(VestibuleError):
                _enter(host)
            os.close(host)
            raise
        return here

    @classmethod
    def join(cls, named: str) -> Namespace:
        """One that exists: a name of ``ip netns``, or a path.  Raises: VST7240, VST7242, VST7243."""
        path = Path(named) if "/" in named else _NAMED / named
        try:
            there = _open(path)
        except OSError as error:
            raise BOUNDARY_MISFIT.error(f"there is no network namespace {path}: {error.strerror}") from error
        try:
            host = _open(_OWN)
            if os.fstat(there).st_ino == os.fstat(host).st_ino:
                os.close(host)
                raise BOUNDARY_MISFIT.error(f"{path} is the network namespace that the sidecar is started in")
            _enter(there)
        finally:
            os.close(there)
        return cls(address="", _host=host)

    def leave(self) -> None:
        """Back to where we came from.  Safe to call twice."""
        if self._host >= 0:
            with contextlib.suppress(VestibuleError):
                _enter(self._host)
            os.close(self._host)
            self._host = -1

    def _connect(self, cable: str) -> None:
        inside = _open(_OWN)
        try:
            with self._outside():
                ends, taken = None, _networks_taken()
                for _ in range(_ATTEMPTS):
                    ends = _random_ends()
                    if not any(ends[0] in each for each in taken):
                        break
                assert ends is not None
                peer = ("peer", "name", _INSIDE, "netns", f"/proc/{os.getpid()}/fd/{inside}")
                run_tool("ip", "link", "add", cable, "type", "veth", *peer)
                run_tool("ip", "addr", "add", f"{ends[0]}/30", "dev", cable)
                run_tool("ip", "link", "set", cable, "up")
                _forward(cable)
        finally:
            os.close(inside)
        run_tool("ip", "addr", "add", f"{ends[1]}/30", "dev", _INSIDE)
        run_tool("ip", "link", "set", _INSIDE, "up")
        run_tool("ip", "route", "add", "default", "via", str(ends[0]))
        self.address = str(ends[1])

    @contextlib.contextmanager
    def _outside(self) -> Iterator[None]:
        """For steps that are the host's; nothing may be awaited meanwhile."""
        inside = _open(_OWN)
        _enter(self._host)
        try:
            yield
        finally:
            _enter(inside)
            os.close(inside)


def chains(ingress: Iterable[Address]) -> list[str]:
    """The namespace's only way in: the sidecar's own ports.  Answers to what was asked from inside pass, too."""
    doors = ", ".join(str(each.port) for each in sorted(ingress))
    rules = (
        'iif "lo" accept',
        "ct state established,related accept",
        "meta l4proto { icmp, ipv6-icmp } accept",
        f"tcp dport {{ {doors} }} accept" if doors else "",
        "meta l4proto tcp counter reject with tcp reset",
        "counter drop",
    )
    body = "\n".join(f"  {rule}" for rule in rules if rule)
    return [f"chain input {{\n  type filter hook input priority filter; policy accept;\n{body}\n}}"]


def _random_ends() -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    number = random.randrange(NETWORK.num_addresses // 4)  # noqa: S311 - an address, no secret
    return NETWORK[number * 4 + 1], NETWORK[number * 4 + 2]


def _networks_taken() -> list[ipaddress.IPv4Network]:
    lines = run_tool("ip", "-4", "-o", "addr").splitlines()
    found = [word for line in lines for word in line.split() if "/" in word and word[0].isdigit()]
    return [ipaddress.IPv4Network(each, strict=False) for each in found]


def _forward(cable: str) -> None:
    """Let sidecars in namespaces of one host reach each other.  Where that may not be set, they reach the host."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv4/conf/{cable}/forwarding").write_text("1", encoding="ascii")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _enter(namespace: int) -> None:
    _call(_libc.setns(namespace, _CLONE_NEWNET), "enter a network namespace")


def _call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        code = NEEDS_POWER if number in (1, 13) else RULES_REFUSED
        raise code.error(f"cannot {what}: {os.strerror(number)}")
