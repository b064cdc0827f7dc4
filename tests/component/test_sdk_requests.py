"""requests over the SDK's mutual TLS, against a real server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.mtls_lab import (
    ORDERS,
    PATIENCE,
    PAYMENTS,
    Held,
    MtlsServer,
    a_web_server,
    eventually,
    held,
    payments_server,
)

from vestibule.sdk import authorize_ids, reason
from vestibule.sdk.requests import MtlsAdapter
from vestibule.testing import TestAuthority

WANTED = authorize_ids(PAYMENTS)


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority("example.org")


@pytest.fixture
def orders(authority: TestAuthority) -> Iterator[Held]:
    with held(Held(authority, ORDERS)) as source:
        yield source


@pytest.fixture
def payments(authority: TestAuthority) -> Held:
    return Held(authority, PAYMENTS)


@pytest.fixture
def server(payments: Held) -> Iterator[MtlsServer]:
    with payments_server(payments) as serving:
        yield serving


@contextmanager
def session(source: Held, **options: Any) -> Iterator[requests.Session]:
    authorize = options.pop("authorize", WANTED)
    with requests.Session() as made:
        made.mount("https://", MtlsAdapter(source, authorize, **options))
        yield made


def code(ask: Callable[[], object], error: type[Exception]) -> str:
    """The code of the reason for which asking fails."""
    with pytest.raises(error) as raised:
        ask()
    why = reason(raised.value)
    assert why is not None
    return why.code.code


def test_requests_share_a_connection_until_it_is_time_to_leave_it(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        assert [asking.get(server.url).json()["connection"] for _ in range(3)] == [1, 1, 1]
        orders.pass_time()
        eventually(lambda: not server.open)
        answer = asking.get(server.url, verify=False).json()  # what a session says of TLS plays no part
        assert answer == {"connection": 2, "caller": str(ORDERS)}
    eventually(lambda: not len(orders.connections))


def test_what_is_under_way_when_a_connection_retires_ends_in_peace(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        slow = asking.get(f"{server.url}/slow", stream=True)
        orders.pass_time()
        assert asking.get(server.url).json()["connection"] == 2
        server.go_on.set()
        assert slow.json()["connection"] == 1
        eventually(lambda: list(server.open) == [2])


def test_threads_share_a_session_across_rotations(orders: Held, payments: Held, server: MtlsServer) -> None:
    failures: list[BaseException] = []

    def ask(asking: requests.Session) -> None:
        try:
            for _ in range(30):
                assert asking.post(server.url, data=b"x").json()["caller"] == str(ORDERS)
        except BaseException as error:  # noqa: BLE001 - it is told below
            failures.append(error)

    with session(orders) as asking:
        threads = [threading.Thread(target=ask, args=(asking,)) for _ in range(6)]
        for each in threads:
            each.start()
        for _ in range(20):
            orders.rotate()
            payments.rotate()
            orders.pass_time()
        for each in threads:
            each.join(PATIENCE)
    assert not failures
    assert len(server.asked) == 180


def test_a_thread_that_waits_for_a_revoked_peer_is_woken_and_told_why(
    orders: Held, server: MtlsServer
) -> None:
    with session(orders) as asking:
        threading.Timer(0.05, orders.revoke, [PAYMENTS]).start()
        assert code(lambda: asking.get(f"{server.url}/stall"), requests.ConnectionError) == "VST1020"


def test_a_body_is_cut_when_the_peer_is_revoked(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        slow = asking.get(f"{server.url}/slow", stream=True)
        orders.revoke(PAYMENTS)
        assert code(lambda: slow.content, requests.exceptions.ChunkedEncodingError) == "VST1020"


def test_the_wrong_peer_is_refused_before_anything_is_sent(orders: Held, server: MtlsServer) -> None:
    with session(orders, authorize=authorize_ids(ORDERS)) as asking:
        assert (
            code(lambda: asking.post(server.url, data=b"secret"), requests.exceptions.SSLError) == "VST2404"
        )
    assert not server.asked


def test_a_withdrawn_identity_calls_nobody(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        orders.withdraw()
        assert code(lambda: asking.get(server.url), requests.exceptions.SSLError) == "VST2402"


def test_being_refused_by_the_peer_is_told_as_such(orders: Held, payments: Held) -> None:
    with payments_server(payments, authorize_ids(PAYMENTS)) as server, session(orders) as asking:
        assert code(lambda: asking.get(server.url), requests.ConnectionError) == "VST2431"


def test_a_request_on_a_connection_that_the_server_left_is_asked_again(
    orders: Held, server: MtlsServer
) -> None:
    with session(orders) as asking:
        asking.get(server.url)
        assert asking.get(f"{server.url}/drop").json()["connection"] == 2
        server.drops = 1
        with pytest.raises(requests.ConnectionError):
            asking.post(f"{server.url}/drop", data=b"once")
        server.drops = 1
        asking.get(server.url)
        keyed = {"Idempotency-Key": "7"}
        assert asking.post(f"{server.url}/drop", data=b"once", headers=keyed).status_code == 200


def test_idle_connections_that_the_server_closed_are_not_used(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        for number in range(1, 6):
            assert asking.post(server.url, data=b"x").json()["connection"] == number
            server.close_connections()


def test_servers_that_stall_or_talk_nonsense_are_errors_of_requests(orders: Held, server: MtlsServer) -> None:
    with session(orders) as asking:
        with pytest.raises(requests.exceptions.ReadTimeout):
            asking.get(f"{server.url}/stall", timeout=(PATIENCE, 0.05))
        with pytest.raises(requests.ConnectionError):
            asking.get(f"{server.url}/garbage")
    eventually(lambda: not len(orders.connections))


def test_plain_text_is_refused(orders: Held, server: MtlsServer) -> None:
    with requests.Session() as asking:
        asking.mount("http://", MtlsAdapter(orders, WANTED))
        refused = requests.exceptions.InvalidSchema
        assert code(lambda: asking.get(f"http://127.0.0.1:{server.port}"), refused) == "VST2430"


def test_hosts_outside_are_called_by_name_and_leave_a_line(
    orders: Held, server: MtlsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vestibule.sdk.outside")
    with (
        a_web_server(tmp_path) as (outsider, _),
        session(orders, outside=[f"localhost:{outsider.port}"]) as asking,
    ):
        asking.verify = str(tmp_path / "web.pem")
        asking.trust_env = False
        answer = asking.get(f"https://localhost:{outsider.port}/v1?card=4242").json()
        assert answer["caller"] == "anybody"
        assert asking.get(server.url).json()["caller"] == str(ORDERS)
    (line,) = (json.loads(each.message) for each in caplog.records if each.name == "vestibule.sdk.outside")
    assert (line["caller"], line["path"], line["status"]) == (str(ORDERS), "/v1", 200)
