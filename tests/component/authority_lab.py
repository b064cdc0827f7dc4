"""Operating authorities of a server in this process, and waiting for what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509

from vestibule.calls.identity_api import bundle_from_wire
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import X509Context
from vestibule.net.grpc import Client
from vestibule.pki.certificates import load_certificate, subject_key_id
from vestibule.spiffe import TrustBundle
from vestibule.wire.gen.spire import bundle_pb2
from vestibule.wire.gen.spire import localauthority_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["LocalAuthority"]
BUNDLE = bundle_pb2.DESCRIPTOR.services_by_name["Bundle"]


class Operator:
    """SPIRE's LocalAuthority API on a server's private socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def call(self, method: str, **fields: Any) -> Any:
        channel = unix_channel(self.socket)
        try:
            return await Client(channel, SERVICE).unary(method, getattr(wire, f"{method}Request")(**fields))
        finally:
            channel.close()

    async def bundle(self) -> TrustBundle:
        channel = unix_channel(self.socket)
        try:
            return bundle_from_wire(
                await Client(channel, BUNDLE).unary("GetBundle", bundle_pb2.GetBundleRequest())
            )
        finally:
            channel.close()

    async def states(self, kind: str) -> Any:
        return await self.call(f"Get{kind}AuthorityState")

    async def active(self, kind: str = "X509") -> str:
        return str((await self.states(kind)).active.authority_id)

    async def prepare(self, kind: str = "X509") -> str:
        return str((await self.call(f"Prepare{kind}Authority")).prepared_authority.authority_id)

    async def step(self, step: str, authority_id: str, kind: str = "X509") -> None:
        await self.call(f"{step}{kind}Authority", authority_id=authority_id)


def roots_of(context: X509Context) -> set[str]:
    """The authorities that a workload trusts, by subject key identifier."""
    return {
        subject_key_id(load_certificate(der)) for each in context.bundles for der in each.x509_authorities
    }


def leads_to(context: X509Context, root_id: str) -> bool:
    """Whether every SVID's chain ends below this authority, as its last certificate says it."""
    return all(_signed_by(svid.chain[-1]) == root_id for svid in context.svids)


def _signed_by(der: bytes) -> str:
    extension = load_certificate(der).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return (extension.value.key_identifier or b"").hex()


async def until(holds: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Wait for a condition, with a deadline that slow machines meet."""
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None
