"""``vestibule.admin.v1.RolloutAdmin``: how a new intent reaches the proxies, for operators on the server's socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vestibule.doors.identity_api.values import actor, receive, unix
from vestibule.mesh.codes import NO_INTENT_YET
from vestibule.mesh.rolling import Rolling
from vestibule.mesh.rollout_view import RolloutView
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import KeptIntent
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["RolloutAdmin"]
MOST_BEHIND: Final = 100
MOST_ERRORS: Final = 100
LONGEST_REASON: Final = 500


class RolloutDoor:
    """Translates for ``mesh.rolling``.  Without a rollout there is no intent."""

    def __init__(self, rolling: Rolling | None, view: Callable[[], RolloutView] | None = None) -> None:
        self._rolling = rolling
        self._view = view

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get(self, stream: Stream) -> None:
        """Get.  Raises: VST3203."""
        await receive(stream)
        await stream.send_message(self._now())

    async def get_history(self, stream: Stream) -> None:
        """GetHistory.  Raises: VST3203."""
        await receive(stream)
        found = map(intent_to_wire, self._known().history)
        await stream.send_message(wire.RolloutHistory(intents=found))

    async def roll_back(self, stream: Stream) -> None:
        """RollBack.  Raises: VST3203, VST3240 to VST3243."""
        request = await receive(stream)
        await self._known().roll_back(actor(), request.version, _reason(request))
        await stream.send_message(self._now())

    async def pause(self, stream: Stream) -> None:
        """Pause.  Raises: VST3203, VST3243."""
        request = await receive(stream)
        await self._known().pause(actor(), _reason(request))
        await stream.send_message(self._now())

    async def resume(self, stream: Stream) -> None:
        """Resume.  Raises: VST3203, VST3240, VST3243."""
        request = await receive(stream)
        await self._known().resume(actor(), _reason(request))
        await stream.send_message(self._now())

    async def promote(self, stream: Stream) -> None:
        """Promote.  Raises: VST3203, VST3240, VST3243."""
        request = await receive(stream)
        await self._known().promote(actor(), _reason(request))
        await stream.send_message(self._now())

    def _known(self) -> Rolling:
        if self._rolling is None:
            raise NO_INTENT_YET.error("this server runs without an intent")
        return self._rolling

    def _now(self) -> wire.Rollout:
        self._known()
        assert self._view is not None
        return view_to_wire(self._view())


def view_to_wire(view: RolloutView) -> wire.Rollout:
    """A rollout as operators' commands get it."""
    state = view.state
    message = wire.Rollout(
        phase=state.phase.value,
        good=state.good or "",
        head=state.head or "",
        trial=state.trial or "",
        since=unix(state.since),
        watched_until=unix(view.watched_until),
        paused=state.paused,
        failed=state.failed or "",
        reason=state.reason,
        actor=state.actor,
        newest=intent_to_wire(view.newest) if view.newest is not None else None,
        proxies=view.proxies,
        wave=view.wave,
        acknowledged=view.acknowledged,
        behind_total=len(view.behind),
        place=view.place,
        warnings=view.warnings,
    )
    for each in view.behind[:MOST_BEHIND]:
        message.behind.add(
            instance_id=each.instance_id, service=each.service, wanted=each.wanted, why=each.why
        )
    for errors in view.errors[:MOST_ERRORS]:
        message.errors.add(
            service=errors.service,
            side=errors.side.value,
            requests_before=errors.before.requests,
            failed_before=errors.before.failed,
            requests_since=errors.since.requests,
            failed_since=errors.since.failed,
            denied_since=errors.since.denied,
        )
    return message


def intent_to_wire(intent: KeptIntent) -> wire.RolledIntent:
    """What is remembered of an intent."""
    return wire.RolledIntent(
        version=intent.version,
        place=intent.place,
        commit=intent.commit,
        author=intent.author,
        subject=intent.subject,
        signed_by=intent.signed_by,
        committed_at=unix(intent.committed_at),
        taken_up_at=unix(intent.taken_up_at),
        outcome=intent.outcome.value,
        reason=intent.reason,
        ended_at=unix(intent.ended_at),
    )


def _reason(request: Any) -> str:
    # It is shown on terminals and written to logs.
    text = "".join(each if each.isprintable() else " " for each in request.reason)
    return text[:LONGEST_REASON]
