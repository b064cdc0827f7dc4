"""Envoy's secret discovery service, on the agent's public socket; the names stand in ``sds_secrets``.

An Envoy says in its first request what it is; what it gets depends on that, so nothing is sent before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.service.secret.v3 import sds_pb2

from vestibule.agent.workloads import Identities, Workloads
from vestibule.doors.codes import NOT_YOUR_SECRET
from vestibule.doors.sds_secrets import Role, SdsSettings, secrets_of, takes_validator
from vestibule.doors.xds_serving import answer_once, serve_delta, serve_sotw
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import Peer, peer_of
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import SECRET, Snapshot

SERVICE: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]
TYPES: Final = (SECRET,)
SHOWN_NAMES: Final = 8
_log = logging.getLogger(__name__)


class SdsDoor:
    """Serves each caller its own secrets.

    ``identity_of`` says whose Envoy a process is, if a sidecar has vouched for it: that is then its first identity,
    also where other entries fit the process.
    """

    def __init__(
        self,
        workloads: Workloads,
        settings: SdsSettings | None = None,
        identity_of: Callable[[Peer], SpiffeId | None] = lambda _peer: None,
    ) -> None:
        self._workloads = workloads
        self._settings = settings or SdsSettings()
        self._identity_of = identity_of

    def servable(self) -> Servable:
        """The service, to be mounted on the public socket."""
        return serve(SERVICE, self)

    async def stream_secrets(self, stream: Stream) -> None:
        """State of the world.

        Raises: VST2206 for a name that is none of the caller's, as SPIRE does; what ``Workloads.watch`` and
        ``serve_sotw`` raise.
        """
        view = self._view(stream, _names_of)
        await serve_sotw(
            stream,
            view.snapshots(self._workloads.watch(view.peer)),
            types=TYPES,
            node_required=False,
            on_request=view.note,
            absent=view.refusal,
        )

    async def delta_secrets(self, stream: Stream) -> None:
        """Incremental; names that are none of the caller's are told as removed.

        Raises: what ``Workloads.watch`` and ``serve_delta`` raise.
        """
        view = self._view(stream, _subscribed_of)
        await serve_delta(
            stream,
            view.snapshots(self._workloads.watch(view.peer)),
            types=TYPES,
            node_required=False,
            on_request=view.note,
        )

    async def fetch_secrets(self, stream: Stream) -> None:
        """Once.  Raises: VST2206, and what ``Workloads.fetch`` raises."""
        view = self._view(stream, _names_of)
        request = await stream.recv_message()
        view.note(request)
        snapshot = view.of(await self._workloads.fetch(view.peer))
        await stream.send_message(answer_once(request, snapshot, types=TYPES, absent=view.refusal))

    def _view(self, stream: Stream, names_of: Callable[[Any], Any]) -> _View:
        return _View(peer_of(stream), self._settings, names_of, self._identity_of)


class _View:
    """What one stream's Envoy is, which short names it uses, and its secrets accordingly."""

    def __init__(
        self,
        peer: Peer,
        settings: SdsSettings,
        names_of: Callable[[Any], Any],
        identity_of: Callable[[Peer], SpiffeId | None],
    ) -> None:
        self.peer = peer
        self._identity_of = identity_of
        self._settings = settings
        self._short_names = settings.short_names
        self._names_of = names_of
        self._asked: frozenset[str] = frozenset()
        self._validator = True
        self._node = ""
        self._introduced = asyncio.Event()
        self._identities: Identities | None = None

    def note(self, message: Any) -> Snapshot | None:
        """Take note of a request before it is acted upon; the secrets anew, where it makes them others."""
        if not self._introduced.is_set():
            node: base_pb2.Node = message.node
            self._validator = takes_validator(node, self._settings)
            self._node = node.id
            self._introduced.set()
        if message.HasField("error_detail"):
            _log.error("Envoy %s refused secrets: %s", self, message.error_detail.message)
        names = self._names_of(message)
        _drop_empty(names)
        asked = self._asked | (self._short_names.keys() & set(names))
        if asked == self._asked:
            return None
        self._asked = asked
        return None if self._identities is None else self.of(self._identities)

    def of(self, identities: Identities) -> Snapshot:
        """A workload's secrets as this Envoy is to have them."""
        self._identities = identities
        own = self._identity_of(self.peer)
        # The others keep their order.
        ordered = sorted(identities.svids, key=lambda svid: svid.spiffe_id != own)
        identities = replace(identities, svids=tuple(ordered))
        return secrets_of(
            identities, short_names=self._short_names, asked=self._asked, validator=self._validator
        )

    async def snapshots(self, watch: AsyncIterator[Identities]) -> AsyncIterator[Snapshot]:
        """The secrets, once the Envoy has introduced itself, and at every change."""
        async for identities in watch:
            self._identities = identities
            await self._introduced.wait()
            yield self.of(identities)

    def refusal(self, names: Sequence[str]) -> VestibuleError:
        """The error for names that are none of the caller's."""
        if not self._validator and any(self._short_names.get(name) is Role.ALL_BUNDLES for name in names):
            return NOT_YOUR_SECRET.error(
                'unable to tell all bundles without the "SPIFFE validator"',
                advice="Let this Envoy use the SPIFFE validator, or ask for the trust domains one by one.",
            )
        told = " ".join(f'"{name}"' for name in sorted(names)[:SHOWN_NAMES])
        return NOT_YOUR_SECRET.error(f"workload is not authorized for the requested identities [{told}]")

    def __str__(self) -> str:
        return f"{self._node!r} (pid {self.peer.pid})"


def _names_of(message: Any) -> Any:
    return message.resource_names


def _subscribed_of(message: Any) -> Any:
    return message.resource_names_subscribe


def _drop_empty(names: Any) -> None:
    """An empty name names nothing: who sends only such asks for everything."""
    if "" in names:
        kept = [name for name in names if name]
        del names[:]
        names.extend(kept)
