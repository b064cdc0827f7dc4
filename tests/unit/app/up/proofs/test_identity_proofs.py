"""Proofs about identities, against meshes that break their promise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.app.up.proofs.stage import (
    ORDERS,
    REPORTS,
    Entered,
    Stage,
    answer,
    fails,
    holds,
    listening,
    result,
    seen,
)

from vestibule.app.up import dialling
from vestibule.app.up.dialling import Answer, Handshake
from vestibule.app.up.edges import Request, Route
from vestibule.app.up.proofs import identity_attested, wrong_identity_refused
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.observe.access_record import Direction
from vestibule.records import Address
from vestibule.spiffe import X509Svid
from vestibule.wire.gen.spiffe import workload_pb2


class GivesToAnybody:
    """A Workload API that hands out identities without looking."""

    async def fetch_x509_svid(self, stream: Stream) -> None:
        await stream.recv_message()
        svid = workload_pb2.X509SVID(spiffe_id=str(ORDERS))
        await stream.send_message(workload_pb2.X509SVIDResponse(svids=[svid]))


def with_sidecar(stage: Stage, address: Address, socket_path: Path) -> Stage:
    sidecar = SimpleNamespace(
        service="payments",
        kept=SimpleNamespace(name="payments"),
        where=SimpleNamespace(ingress={"http": address}),
    )
    stage.mesh.sidecars = [sidecar]
    stage.mesh.places = SimpleNamespace(agent_socket=socket_path)

    async def dial_address(to: Address, svid: X509Svid | None) -> Handshake:
        return await asyncio.to_thread(dialling.dial_tls, to, svid)

    stage.dial_address = dial_address  # type: ignore[attr-defined]
    return stage


async def test_a_proxy_with_another_identity_fails(tmp_path: Path) -> None:
    stage = Stage()
    with listening(b"", stage.authority.svid(REPORTS)) as address:
        await fails(
            identity_attested.attempt, with_sidecar(stage, address, tmp_path / "s"), f"shows {REPORTS}"
        )


async def test_an_identity_for_a_stranger_fails(tmp_path: Path) -> None:
    stage = Stage()
    server = GrpcServer(
        [serve(workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"], GivesToAnybody())]
    )
    listener = listen_unix(tmp_path / "agent.sock", PUBLIC)
    await server.listen(listener.sock)
    try:
        with listening(b"", stage.authority.svid(stage.identity("payments"))) as address:
            await fails(
                identity_attested.attempt,
                with_sidecar(stage, address, tmp_path / "agent.sock"),
                f"nobody vouched for got {ORDERS}",
            )
    finally:
        await server.close()
        listener.close()


@dataclass
class QuietImpostor(Entered):
    """Counts as if it had been dialled, without a socket."""

    dialled: int = 1
    trusted: int = 0


def impostor_stage(
    monkeypatch: pytest.MonkeyPatch, impostor: QuietImpostor, failure: str, status: int
) -> Stage:
    stage = Stage()
    sleeper = SimpleNamespace(service="payments", kept=SimpleNamespace(pid=4242))
    stage.mesh.sidecars = [sleeper]
    stage.mesh.sidecar_of = lambda _: sleeper
    signals: list[int] = []
    monkeypatch.setattr(wrong_identity_refused, "Impostor", lambda *_: impostor)
    monkeypatch.setattr(wrong_identity_refused, "kill_envoys_of", lambda _: result(set()))
    monkeypatch.setattr("os.kill", lambda _, signum: signals.append(signum))
    replies = iter([answer(status)])

    async def call(_: Route, __: Request, request_id: str | None = None) -> Answer:
        if request_id is None:
            return answer(200)
        stage.log.append(
            seen(
                request_id=request_id,
                direction=Direction.OUTBOUND,
                reporter_service="orders",
                transport_failure=failure,
            )
        )
        return next(replies)

    stage.call = call  # type: ignore[method-assign, assignment]
    return stage


SAN = "TLS_error:CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN match"


async def test_an_impostor_that_is_recognised_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = impostor_stage(monkeypatch, QuietImpostor(), SAN, 503)
    assert "503 while" in await holds(wrong_identity_refused.attempt, stage)


@pytest.mark.parametrize(
    ("impostor", "failure", "status", "why"),
    [
        (QuietImpostor(), SAN, 200, "instead of 503"),
        (QuietImpostor(dialled=0), SAN, 503, "did not even dial"),
        (QuietImpostor(trusted=1), SAN, 503, "sent a request to the wrong workload"),
        (QuietImpostor(), "connection refused", 503, "names no wrong identity"),
        (QuietImpostor(), "", 503, "names no wrong identity"),
    ],
)
async def test_an_impostor_that_is_not_recognised_fails(
    monkeypatch: pytest.MonkeyPatch, impostor: QuietImpostor, failure: str, status: int, why: str
) -> None:
    await fails(wrong_identity_refused.attempt, impostor_stage(monkeypatch, impostor, failure, status), why)
