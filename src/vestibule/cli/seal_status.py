"""How the server's secret manager is, for ``vestibule status`` and ``vestibule check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vestibule.errors import VestibuleError

if TYPE_CHECKING:
    from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2

OFF: Final = "VST5212"
"""What a server answers that has none."""


async def fetch_seal(socket: Path) -> secrets_pb2.SealStatus | None:
    """Ask the server; None where there is no secret manager.  Raises: VST2300, VST5015, the store's errors."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import secrets_pb2

    channel = unix_channel(socket)
    try:
        client = Client(channel, secrets_pb2.DESCRIPTOR.services_by_name["SecretsAdmin"])
        found: secrets_pb2.SealStatus = await client.unary(
            "GetSeal", secrets_pb2.GetSealRequest(), timeout=5.0
        )
    except VestibuleError as error:
        if error.code.code == OFF:
            return None
        raise
    else:
        return found
    finally:
        channel.close()


def seal_document(seal: secrets_pb2.SealStatus | None) -> dict[str, Any] | None:
    """As the envelope of ``status`` carries it; None: there is no secret manager."""
    if seal is None:
        return None
    return {
        "seal": seal.kind,
        "initialised": seal.initialised,
        "sealed": seal.sealed,
        "problem": seal.problem or None,
        "damaged": list(seal.damaged),
    }


def seal_words(data: dict[str, Any]) -> str:
    """``unsealed (seal: file)``, and what is wrong with it."""
    state = "sealed" if data["sealed"] else "unsealed"
    problem = f": {data['problem']}" if data["problem"] else ""
    damaged = f"; rows were tampered with: {', '.join(data['damaged'])}" if data["damaged"] else ""
    return f"{state if data['initialised'] else 'not initialised'} (seal: {data['seal']}){problem}{damaged}"
