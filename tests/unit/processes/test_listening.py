"""Who listens, and which ports are kept."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from tests.ports import free_port

from vestibule.errors import VestibuleError
from vestibule.processes import Backoff, claim, ports, procfs, reserve, reserve_preferably
from vestibule.processes.listening import TcpListener, tcp_listeners, unix_listeners


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
        ("192.168.1.7", False),
        ("fe80::1", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    assert TcpListener(host, 80, 1).is_loopback is loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_is_found_with_its_address_and_owner(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        port, inode = listening.getsockname()[1], os.fstat(listening.fileno()).st_ino
        assert not [found for found in tcp_listeners() if found.inode == inode]
        listening.listen()
        (found,) = [found for found in tcp_listeners() if found.inode == inode]
        assert (found.host, found.port) == (host, port)
        assert procfs.sockets_of([os.getpid()])[found.inode] == os.getpid()


def test_unix_listeners_are_found_by_path(run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(run / "a b.sock"))
        assert str(run / "a b.sock") not in unix_listeners()
        listening.listen()
        assert unix_listeners()[str(run / "a b.sock")] in procfs.sockets_of([os.getpid()])


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_reserved_port_admits_one_listener_and_no_second_reservation(reuse_port: bool) -> None:
    held = reserve()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", held.port))
    with pytest.raises(VestibuleError, match=f"port {held.port} on 127.0.0.1 is taken") as caught:
        reserve("127.0.0.1", held.port)
    assert caught.value.code.code == "VST7005"
    assert f"sport = :{held.port}" in caught.value.advice
    with socket.socket() as envoy:
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        envoy.bind(("127.0.0.1", held.port))
        envoy.listen()
        for _ in range(20):
            socket.create_connection(("127.0.0.1", held.port)).close()
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                second.bind(("127.0.0.1", held.port))
    other = reserve_preferably("127.0.0.1", held.port)
    assert other.port != held.port
    other.release()
    held.release()
    again = reserve("127.0.0.1", held.port)
    again.release()


def test_a_claimed_port_is_none_that_the_kernel_gives_away_and_stays_claimed_while_nobody_listens() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    claimed = [claim() for _ in range(20)]
    assert len({each.port for each in claimed}) == 20
    assert not [each.port for each in claimed if first <= each.port <= last]
    for _ in range(2):
        # An app that comes back, and need not set SO_REUSEADDR.
        with socket.socket() as app:
            app.bind(("127.0.0.1", claimed[0].port))
            app.listen()
    for each in claimed:
        each.release()


def test_claims_do_not_meet_where_there_are_few_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [free_port(), free_port()]
    monkeypatch.setattr(ports, "_outside_the_kernels", lambda: few)
    first, second, third = claim(), claim(), claim()
    assert [first.port, second.port] == few
    assert third.port not in few, "both are claimed: the kernel chooses"
    first.release()
    again = claim()
    assert again.port == first.port
    for each in (again, second, third):
        each.release()


@pytest.mark.parametrize(
    ("kernels", "ours"),
    [
        ("32768\t60999", range(61_000, 65_536)),
        ("32768 65000", range(10_000, 32_768)),
        ("1024 65535", range(0)),
    ],
)
def test_claims_are_above_the_kernels_ports_or_below_them(
    run: Path, monkeypatch: pytest.MonkeyPatch, kernels: str, ours: range
) -> None:
    (run / "range").write_text(f"{kernels}\n")
    monkeypatch.setattr(ports, "_KERNELS", run / "range")
    assert bool(found := ports._outside_the_kernels()) == bool(ours)
    assert set(found) <= set(ours)


def test_back_off_grows_to_its_bound_and_forgets_after_a_steady_run() -> None:
    backoff = Backoff(first=1, longest=10, steady=5, jitter=0)
    assert [backoff.delay(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [1, 2, 4, 8, 10, 10]
    assert backoff.failures(3, ran_for=4.9) == 4
    assert backoff.failures(3, ran_for=5) == 1
    spread = Backoff(first=1, jitter=0.1)
    assert (spread.delay(1, 0.0), spread.delay(1, 0.5)) == pytest.approx((0.9, 1.0))


def test_an_ipv4_address_in_ipv6_clothes_is_that_ipv4_address() -> None:
    """As programs with gRPC's C core listen."""
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::ffff:127.0.0.1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        sock.listen()
        inode = os.fstat(sock.fileno()).st_ino
        (found,) = [found for found in tcp_listeners() if found.inode == inode]
        assert found.host == "127.0.0.1"
        assert found.is_loopback
