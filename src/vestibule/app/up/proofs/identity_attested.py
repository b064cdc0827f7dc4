"""Each sidecar's Envoy serves exactly its service's SPIFFE ID; a process that nobody vouched for gets none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import Scene
from vestibule.app.up.sidecars import SidecarPart
from vestibule.calls.unix import unix_channel
from vestibule.errors import Kind, VestibuleError
from vestibule.net.grpc import Client
from vestibule.wire.gen.spiffe import workload_pb2

_SECURITY_HEADER: Final = {"workload.spiffe.io": "true"}


async def attempt(scene: Scene) -> str:
    """Handshakes with every ingress, then a request to the Workload API in our own name."""
    seen = 0
    silent = []
    for sidecar in scene.mesh.sidecars:
        ports = sidecar.where.ingress
        for port in ports:
            await _serves_its_own_identity(scene, sidecar, port)
            seen += 1
        if not ports:
            silent.append(sidecar.kept.name)
    if not seen:
        raise CannotTry("no service has a port, so no proxy shows a certificate")
    refusal = await _refusal_for_strangers(scene)
    left_out = f"; without a port, so not looked at: {', '.join(silent)}" if silent else ""
    return f"{seen} handshakes showed exactly the expected SPIFFE IDs; an unknown process got {refusal}{left_out}"


async def _serves_its_own_identity(scene: Scene, sidecar: SidecarPart, port: str) -> None:
    expected = scene.identity(sidecar.service)
    address = sidecar.where.ingress[port]
    handshake = await scene.dial_address(address, None)
    handshake.connection.close()
    found = handshake.verified(scene.bundle, datetime.now(UTC)).spiffe_id
    if found != expected:
        raise Disproved(f"the proxy of {sidecar.kept.name} shows {found}, not {expected}")


async def _refusal_for_strangers(scene: Scene) -> str:
    """We are such a stranger: we started the sidecars, but nobody vouches for us."""
    channel = unix_channel(scene.mesh.places.agent_socket)
    client = Client(channel, workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"])
    try:
        async with client.stream("FetchX509SVID", timeout=10.0, metadata=_SECURITY_HEADER) as stream:
            await stream.send_message(workload_pb2.X509SVIDRequest(), end=True)
            answer = await stream.recv_message()
    except VestibuleError as error:
        if error.code.kind is not Kind.DENIED and not error.message.startswith("PERMISSION_DENIED"):
            raise
        return "PERMISSION_DENIED"
    finally:
        channel.close()
    ids = ", ".join(each.spiffe_id for each in answer.svids) if answer is not None else "an empty answer"
    raise Disproved(f"a process that nobody vouched for got {ids} from the Workload API")


PROOF: Final = Proof(
    id="identity-attested",
    claim="every proxy has exactly its service's identity, and a stranger gets none",
    attempt=attempt,
)
