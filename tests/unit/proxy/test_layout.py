"""Addresses of an instance, and what its app is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.ports import free_port

from vestibule.errors import VestibuleError
from vestibule.processes import reserve
from vestibule.proxy.layout import Layout
from vestibule.records import Address, Boundary, PortView, ServiceView, UpstreamView
from vestibule.spiffe import SpiffeId

AGENT = Path("/run/vestibule/agent.sock")


def view(*, ports: tuple[str, ...] = ("http",), upstreams: tuple[tuple[str, str], ...] = ()) -> ServiceView:
    return ServiceView(
        service="payments",
        spiffe_id=SpiffeId.parse("spiffe://example.org/ns/test/sa/payments"),
        ports=tuple(PortView(name=name, protocol="http") for name in ports),
        upstreams=tuple(
            UpstreamView(name=name, service=name, port="http", protocol=protocol)
            for name, protocol in upstreams
        ),
        intent_version="v",
        mesh="shop",
        environment="test",
    )


@pytest.fixture
def layouts() -> Iterator[list[Layout]]:
    made: list[Layout] = []
    yield made
    for layout in made:
        layout.close()


def make(layouts: list[Layout], **more: object) -> Layout:
    settings: dict[str, object] = {
        "instance_id": "payments-1",
        "service": "payments",
        "version": "v1",
        "boundary": Boundary.TRUST,
        "directory": Path("/run/v/sc/1"),
        "starts_app": True,
    }
    layout = Layout(**{**settings, **more})  # type: ignore[arg-type]
    layouts.append(layout)
    return layout


def test_addresses_stay_when_the_view_changes(layouts: list[Layout]) -> None:
    layout = make(layouts)
    first, second = view(upstreams=(("a", "http"),)), view(upstreams=(("b", "grpc"), ("a", "http")))
    layout.fit(first)
    before = layout.instance(first, reachable=True)
    layout.fit(second)
    after = layout.instance(second, reachable=True)
    assert after.upstreams["a"] == before.upstreams["a"]
    assert (after.ingress, after.apps, after.egress) == (before.ingress, before.apps, before.egress)
    assert "b" in after.upstreams


def test_an_instance_nobody_reaches_has_only_its_way_out(layouts: list[Layout]) -> None:
    layout = make(layouts)
    layout.fit(view())
    instance = layout.instance(view(), reachable=False)
    assert dict(instance.ingress) == dict(instance.apps) == {}
    assert instance.egress is not None


def test_the_variables_of_an_upstream_follow_its_protocol(layouts: list[Layout]) -> None:
    layout = make(layouts)
    seen = view(upstreams=(("web-api", "http"), ("bank/grpc", "grpc"), ("db", "tcp"), ("h2", "http2")))
    layout.fit(seen)
    env = layout.environment({"HOME": "/", "PORT": "1", "http_proxy": "http://x"}, seen, AGENT)
    assert env["VESTIBULE_UPSTREAM_WEB_API"] == f"http://{layout.upstreams['web-api']}"
    assert env["VESTIBULE_UPSTREAM_H2"] == f"http://{layout.upstreams['h2']}"
    assert env["VESTIBULE_UPSTREAM_BANK_GRPC"] == str(layout.upstreams["bank/grpc"])
    assert env["VESTIBULE_UPSTREAM_DB"] == str(layout.upstreams["db"])
    assert env["PORT"] == str(layout.apps["http"].port)
    assert env["http_proxy"] == f"http://{layout.egress}"
    assert env["HOME"] == "/"


def test_upstreams_that_would_share_a_variable_get_none(layouts: list[Layout]) -> None:
    layout = make(layouts)
    seen = view(upstreams=(("a-b", "http"), ("a/b", "http"), ("c", "http")))
    layout.fit(seen)
    env = layout.environment({}, seen, AGENT)
    assert "VESTIBULE_UPSTREAM_A_B" not in env
    assert "VESTIBULE_UPSTREAM_C" in env


def test_several_ports_have_a_variable_each(layouts: list[Layout]) -> None:
    layout = make(layouts, app_ports={"admin": 9001})
    seen = view(ports=("http", "admin"))
    layout.fit(seen)
    env = layout.environment({}, seen, AGENT)
    assert env["VESTIBULE_LISTEN_ADMIN"] == "127.0.0.1:9001"
    assert env["PORT"] == env["VESTIBULE_LISTEN_HTTP"].rpartition(":")[2]
    assert "VESTIBULE_LISTEN" not in env


def test_under_unix_there_is_nothing_but_sockets_between_app_and_sidecar(layouts: list[Layout]) -> None:
    layout = make(layouts, boundary=Boundary.UNIX)
    seen = view(upstreams=(("a", "http"),))
    layout.fit(seen)
    env = layout.environment({"HTTP_PROXY": "http://x", "PORT": "1"}, seen, AGENT)
    assert env["VESTIBULE_EGRESS"] == "unix:/run/v/sc/1/egress.sock"
    assert env["VESTIBULE_UPSTREAM_A"].startswith("unix:/run/v/sc/1/")
    assert env["VESTIBULE_LISTEN"].startswith("unix:/run/v/sc/1/")
    assert not {"PORT", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} & env.keys()
    assert layout.ingress["http"].port, "between sidecars it is mTLS over TCP"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"starts_app": False}, "VST7201"),
        ({"app_ports": {"grpc": 1}}, "VST7201"),
        ({"boundary": Boundary.UNIX, "app_ports": {"http": 1}}, "VST7201"),
        ({"boundary": Boundary.UNIX, "directory": Path("/" + "d" * 100)}, "VST2310"),
        ({"ingress_host": "0.0.0.0"}, "VST7206"),
        ({"ingress_host": "localhost"}, "VST7206"),
        ({"ingress_host": "192.0.2.1"}, "VST7005"),
    ],
)
def test_what_cannot_be_laid_out_says_why(layouts: list[Layout], more: dict[str, object], code: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        make(layouts, **more).fit(view())
    assert caught.value.code.code == code


def test_two_layouts_share_no_port(layouts: list[Layout]) -> None:
    one, two = make(layouts), make(layouts)
    one.fit(view())
    two.fit(view())
    ports = [
        one.egress,
        two.egress,
        *one.ingress.values(),
        *two.ingress.values(),
        *one.apps.values(),
        *two.apps.values(),
    ]
    assert len(set(ports)) == 6


# ---------------------------------------------------------------------------------------- gateways


def way_in(**ports: int) -> ServiceView:
    listeners = tuple(
        PortView(name=name, protocol="http", listen=Address(host="127.0.0.1", port=port))
        for name, port in ports.items()
    )
    return replace(view(ports=()), ports=listeners)


def test_a_gateway_listens_where_the_intent_says_and_has_nothing_else(layouts: list[Layout]) -> None:
    layout, port = make(layouts, starts_app=False), free_port()
    layout.fit(way_in(https=port))
    instance = layout.instance(way_in(https=port), reachable=True)
    assert instance.ingress == {"https": Address(host="127.0.0.1", port=port)}
    assert (instance.apps, instance.egress, instance.upstreams) == ({}, None, {})


def test_a_gateways_listener_moves_when_the_intent_says_so(layouts: list[Layout]) -> None:
    layout, first, second = make(layouts, starts_app=False), free_port(), free_port()
    layout.fit(way_in(https=first, http=second))
    layout.fit(way_in(https=second))
    moved = way_in(https=second)
    assert layout.instance(moved, reachable=True).ingress == {"https": Address(host="127.0.0.1", port=second)}
    reserve("127.0.0.1", first).release()


def test_a_gateways_port_that_is_taken_is_called_so(layouts: list[Layout]) -> None:
    port = free_port()
    held = reserve("127.0.0.1", port)
    try:
        with pytest.raises(VestibuleError, match=f"VST7005 port {port}"):
            make(layouts, starts_app=False).fit(way_in(https=port))
    finally:
        held.release()


def test_ports_are_moved_all_of_them_or_none(layouts: list[Layout]) -> None:
    first, second, app = free_port(), free_port(), free_port()
    layout = make(layouts, starts_app=False, app_ports={"http": app})
    layout.ingress_at = {"http": Address(host="127.0.0.1", port=first)}
    layout.fit(view())
    assert layout.ingress["http"].port == first

    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = {"http": Address(host="127.0.0.1", port=taken.getsockname()[1])}
        with pytest.raises(VestibuleError, match="VST7005"):
            layout.move(busy, {"http": app})
    assert layout.ingress["http"].port == first

    layout.move({"http": Address(host="127.0.0.1", port=second)}, {"http": app})
    layout.fit(view())
    assert layout.ingress["http"].port == second
    assert layout.apps["http"].port == app
    reserve("127.0.0.1", first).release()
