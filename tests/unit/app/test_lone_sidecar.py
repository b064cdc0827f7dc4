"""What a lone sidecar keeps for its Envoy, and reads off its certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.unit.intent.lone.files import DOMAIN, ORDERS, lone

from vestibule.app.lone_followed import Followed
from vestibule.app.lone_sidecar import life_of
from vestibule.app.lone_views import layout_of, moved, view_of
from vestibule.errors import SeveralError, VestibuleError
from vestibule.intent.lone import Lone
from vestibule.intent.lone.files import LoneFile
from vestibule.proxy.layout import Layout
from vestibule.records import Boundary
from vestibule.spiffe import SpiffeId

OWN = SpiffeId.parse(f"{DOMAIN}/orders")


def test_only_what_changed_is_written_each_file_as_a_whole(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    assert followed.write({"a": b"1", "b": b"2"})
    inodes = {name: (tmp_path / name).stat().st_ino for name in "ab"}
    assert not followed.write({"a": b"1", "b": b"2"})
    assert followed.write({"a": b"1", "b": b"3"})
    assert (tmp_path / "a").stat().st_ino == inodes["a"]
    assert (tmp_path / "b").stat().st_ino != inodes["b"]
    assert {each.name for each in tmp_path.iterdir()} == {"a", "b"}


def certificate(uri: str) -> dict[str, object]:
    leaf = {
        "subject_alt_names": [{"uri": uri}],
        "valid_from": "2026-11-22T23:00:00Z",
        "expiration_time": "2026-11-23T00:00:00Z",
    }
    return {"ca_cert": [], "cert_chain": [leaf]}


def test_how_long_a_certificate_lives_is_read_off_the_own_one() -> None:
    other = certificate(f"{DOMAIN}/web")
    assert life_of({"certificates": [other, certificate(str(OWN))]}, OWN) == timedelta(hours=1)
    assert life_of({"certificates": [other]}, OWN) is None
    assert life_of({"certificates": []}, OWN) is None


def test_a_file_is_read_again_when_it_or_what_stands_beside_it_changed(tmp_path: Path) -> None:
    file = LoneFile(tmp_path / "orders.yaml")
    with pytest.raises(VestibuleError, match="VST7320"):
        file.valid()
    file.path.write_text(ORDERS)
    assert file.has_changed()
    assert file.valid().name == "orders"
    assert not file.has_changed()
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "partner.pem").write_text("x")
    assert file.has_changed()
    file.path.write_text("service: [")
    with pytest.raises(SeveralError) as found:
        file.valid()
    assert found.value.errors[0].code.code == "VST7321"
    assert not file.has_changed()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "orders.yaml"
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(VestibuleError, match="VST7320"):
        LoneFile(path).valid()


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match=f"VST7320 cannot read {tmp_path}: Is a directory"):
        LoneFile(tmp_path).valid()


@pytest.fixture
def layout() -> Iterator[Layout]:
    made = layout_of(
        file_of(free_port()),
        instance_id="o-1",
        directory=Path("/x"),
        boundary=Boundary.TRUST,
        starts_app=False,
    )
    yield made
    made.close()


def file_of(port: int, more: str = "") -> Lone:
    text = ORDERS.replace("'10.0.0.4:8443'", str(port)).replace("protocol: http\n", f"protocol: http\n{more}")
    return lone(text)


def test_what_a_changed_file_says_otherwise_moves_and_all_else_stays(layout: Layout) -> None:
    before = file_of(layout.ingress_at["http"].port)
    layout.fit(view_of(before))
    was = layout.instance(view_of(before), reachable=True)
    now = file_of(free_port())
    moved(layout, before, now, starts_app=False)
    layout.fit(view_of(now))
    after = layout.instance(view_of(now), reachable=True)
    assert after.ingress["http"].port == now.listen["http"].port != was.ingress["http"].port
    assert (after.egress, after.upstreams, after.apps) == (was.egress, was.upstreams, was.apps)


def test_a_file_of_another_service_is_refused(layout: Layout) -> None:
    before = file_of(layout.ingress_at["http"].port)
    other = lone(ORDERS.replace("service: orders", "service: billing").replace("web, orders", "web"))
    with pytest.raises(VestibuleError, match="VST7224"):
        moved(layout, before, other, starts_app=False)
