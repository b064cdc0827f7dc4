"""Another user of this machine borrows no service's identity, and reaches no app past its proxy."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from threading import Thread
from typing import Final, TypeVar

from vestibule.app.up import dialling
from vestibule.app.up.dialling import Answer, NoAnswer
from vestibule.app.up.edges import Request
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof, refusal
from vestibule.app.up.proofs.scene import LiveEdge, Scene
from vestibule.records import Address

STRANGER: Final = 65534
"""A uid that no service has: nobody's."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


async def attempt(scene: Scene) -> str:
    """A stranger calls through every caller's way out, and every callee's app with a forged identity."""
    if not scene.edges:
        raise CannotTry("no allowed call shows that the callee would answer")
    seen = ""
    for edge in scene.edges:
        caller, callee = scene.mesh.sidecar_of(edge.route.caller), scene.mesh.sidecar_of(edge.route.callee)
        forged = {"x-forwarded-client-cert": f"URI={scene.identity(edge.route.caller)}"}
        app = callee.where.apps[edge.route.port]
        # The counter-check: the very same call is answered to the service's own user, on the way that it should go.
        answer = await scene.call(edge.route, edge.request)
        if not answer.ok:
            raise Disproved(f"the service's own user is refused, too: {answer}")
        seen = await _refused(scene, edge, caller.where.egress, {}, f"the way out of {edge.route.caller}")
        await _refused(scene, edge, app, forged, f"the app of {edge.route.callee}")
    return f"uid {STRANGER} is refused by {len(scene.edges)} ways out and as many apps: {seen}"


async def _refused(scene: Scene, edge: LiveEdge, address: Address, headers: dict[str, str], what: str) -> str:
    try:
        answer = await asyncio.to_thread(
            ask_as, STRANGER, address, scene.host(edge.route), edge.request, headers
        )
    except NoAnswer as error:
        return refusal(error, f"uid {STRANGER} at {what}")
    raise Disproved(f"uid {STRANGER} was answered by {what}: {answer}")


def ask_as(uid: int, address: Address, host: str, request: Request, headers: dict[str, str]) -> Answer:
    """One request on a connection that another user makes.  Raises: NoAnswer.

    The user that the kernel takes for a socket's is that of the thread which makes it (``setfsuid``); it also decides
    which files and Unix sockets may be opened.  A thread of its own, so that nothing else is ever done as that user.
    """
    return _as_user(uid, lambda: dialling.ask(address, host, request, headers))


def _as_user(uid: int, do: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        _libc.setfsgid(uid)
        _libc.setfsuid(uid)
        try:
            # It tells the user that was in force before.
            if _libc.setfsuid(-1) != uid:
                raise CannotTry("this process may not act as another user")
            results.append(do())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            errors.append(error)

    thread = Thread(target=work, name=f"as uid {uid}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


PROOF: Final = Proof(
    id="other-uid-refused",
    claim="another user of the machine can use no service's identity and reach no app",
    attempt=attempt,
)
