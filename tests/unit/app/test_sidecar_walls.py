"""The rules of guard, netns and interception, as text; that the kernel does what they say is tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestibule.app.sidecar_walls import WallSettings
from vestibule.errors import VestibuleError
from vestibule.processes import User
from vestibule.proxy import guard, interception, namespace
from vestibule.proxy.codes import BOUNDARY_MISFIT
from vestibule.proxy.guard import Guarded
from vestibule.proxy.interception import Intercepted
from vestibule.records import Address, Boundary, ServiceView, UpstreamView
from vestibule.spiffe import SpiffeId

NOBODY = User(name="nobody", uid=65534, gid=65534, groups=())


def port(number: int, host: str = "127.0.0.1") -> Address:
    return Address(host=host, port=number)


def service(*upstreams: tuple[str, str, str]) -> ServiceView:
    return ServiceView(
        service="web",
        spiffe_id=SpiffeId.parse("spiffe://example.org/web"),
        ports=(),
        upstreams=tuple(
            UpstreamView(name=name, service=name.partition("/")[0], port=each, protocol=protocol)
            for name, each, protocol in upstreams
        ),
        intent_version="v",
        mesh="shop",
        environment="prod",
    )


def test_the_ways_out_are_for_the_apps_uid_and_the_app_for_the_proxys() -> None:
    output, ways_out, apps = guard.chains(
        Guarded(
            ways_out=(port(15001), port(7)),
            apps=(port(8080),),
            ingress=(port(8080, "10.0.0.1"),),
            callers=frozenset({1}),
            proxies=frozenset({3, 2}),
        )
    )
    assert "tcp dport { 7, 15001 } goto ways_out" in output
    assert output.index("ip daddr 10.0.0.1 tcp dport 8080 accept") < output.index(
        "tcp dport { 8080 } goto apps"
    )
    assert "meta skuid { 1 } accept" in ways_out
    assert "meta skuid { 2, 3 } accept" in apps


def test_a_service_without_ports_has_nothing_to_guard_but_its_way_out() -> None:
    text = "".join(
        guard.chains(
            Guarded(ways_out=(port(1),), apps=(), ingress=(), callers=frozenset({1}), proxies=frozenset({1}))
        )
    )
    assert "goto apps" not in text


def test_a_namespace_without_ingress_lets_nobody_in() -> None:
    (text,) = namespace.chains([])
    assert "dport" not in text
    assert text.rstrip("}").rstrip().endswith("drop")


def test_every_upstream_has_an_address_of_its_own_that_does_not_move() -> None:
    names = {f"s{number}": port(number + 1) for number in range(500)}
    given = interception.addresses(names)
    assert len(set(given.values())) == 500
    assert all(each.startswith("127.77.") for each in given.values())
    assert interception.addresses({"s7": port(1)})["s7"] == given["s7"]


def test_an_app_finds_services_under_the_names_that_the_way_out_knows() -> None:
    view = service(("ledger", "http", "http"), ("bank/admin", "admin", "tcp"), ("bank/api", "api", "grpc"))
    assert interception.names(view) == {
        "ledger": ("ledger", "ledger.shop"),
        "bank/admin": ("admin.bank", "admin.bank.shop"),
        "bank/api": ("api.bank", "api.bank.shop", "bank", "bank.shop"),
    }


def test_the_meshs_names_come_before_the_machines_own(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.0.0.9 ledger\n")
    text = interception.hosts_file(
        service(("ledger", "http", "http")), {"ledger": port(9)}, tmp_path / "hosts"
    )
    assert text.index("127.77.") < text.index("10.0.0.9 ledger")
    assert "localhost" in interception.hosts_file(service(), {}, tmp_path / "missing")


def test_only_the_apps_own_calls_are_turned() -> None:
    out, way_in = interception.chains(
        Intercepted(
            upstreams={"ledger": port(9)},
            egress=port(15001),
            ports=(80,),
            callers=frozenset({5}),
            inbound=interception.inbound([(port(8080), port(1, "10.0.0.1")), (port(8081), port(2))]),
        )
    )
    assert all("meta skuid { 5 }" in line for line in out.splitlines() if "redirect" in line)
    assert 'oif != "lo" tcp dport { 80 } redirect to :15001' in out
    assert "tcp dport 8080 dnat ip to 10.0.0.1:1" in way_in
    assert "8081" not in way_in, "to a door on loopback nothing from outside can be turned"


@pytest.mark.parametrize(
    "settings",
    [
        WallSettings(boundary=Boundary.GUARD, netns="x"),
        WallSettings(boundary=Boundary.UNIX, intercept=True),
        WallSettings(boundary=Boundary.GUARD, intercept_ports=(80,)),
        WallSettings(boundary=Boundary.GUARD, intercept=True, intercept_ports=(80,)),
        WallSettings(boundary=Boundary.UNIX, app_user=NOBODY),
    ],
)
def test_what_does_not_go_together_is_refused(settings: WallSettings) -> None:
    with pytest.raises(VestibuleError) as caught:
        settings.check()
    assert caught.value.code is BOUNDARY_MISFIT
