"""The Workload API with the WIT-SVID profile (SPIFFE_Workload_API.md, section 7): an experiment, behind a flag.

Where it is off, the plain ``WorkloadDoor`` is mounted, which does not know these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

from vestibule.agent.cache import Bundles
from vestibule.agent.jwt_svids import JwtSvids
from vestibule.agent.wit_svids import HeldWit, WitSvids
from vestibule.agent.workloads import Workloads
from vestibule.clock import Clock
from vestibule.doors.workload_api import WorkloadDoor, chosen
from vestibule.net.grpc import Stream
from vestibule.pki.bundles import to_wit_jwks
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.wire.gen.spiffe import workload_pb2 as wire


class WitWorkloadDoor(WorkloadDoor):
    """Answers each caller with its own identities, in all three profiles."""

    def __init__(
        self,
        workloads: Workloads,
        jwt_svids: JwtSvids,
        clock: Clock,
        revocations: Callable[[], Revocations],
        wit_svids: WitSvids,
    ) -> None:
        super().__init__(workloads, jwt_svids, clock, revocations)
        self._wit_svids = wit_svids

    async def fetch_wit_svid(self, stream: Stream) -> None:
        """The caller's tokens with their keys, now and after every change and renewal (section 7.2.1).

        Raises: VST2200, VST1400 (malformed ID), and what ``WitSvids.watch`` raises.
        """
        caller = self._caller(stream)
        request = await stream.recv_message()
        wanted = SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None
        choose = partial(chosen, wanted=wanted)
        async with aclosing(self._wit_svids.watch(self._workloads, caller, choose)) as answers:
            async for held in answers:
                await stream.send_message(wit_response(held))

    async def fetch_wit_bundles(self, stream: Stream) -> None:
        """The keys to verify others' tokens with, now and after every change (section 7.2.2)."""
        caller = self._caller(stream)
        await stream.recv_message()
        last: wire.WITBundlesResponse | None = None
        async with aclosing(self._workloads.watch_bundles(caller)) as answers:
            async for bundles in answers:
                response = wit_bundles_response(bundles)
                if response != last:
                    last = response
                    await stream.send_message(response)


def wit_response(held: Sequence[HeldWit]) -> wire.WITSVIDResponse:
    """Section 7.2.1; hints are unique, as with certificates."""
    response = wire.WITSVIDResponse()
    hints: set[str] = set()
    for each in held:
        hint = "" if each.svid.hint in hints else each.svid.hint
        hints.add(hint)
        response.svids.add(
            spiffe_id=str(each.svid.spiffe_id), wit_svid=each.svid.token, wit_svid_key=each.key, hint=hint
        )
    return response


def wit_bundles_response(bundles: Bundles) -> wire.WITBundlesResponse:
    """Section 7.2.2: JWK Sets by the trust domain's SPIFFE ID, at least the own one; others with keys only."""
    told = (bundles.own, *(each for each in bundles.federated if each.wit_authorities))
    return wire.WITBundlesResponse(
        bundles={str(each.trust_domain.id): to_wit_jwks(each).decode() for each in told}
    )
