"""What Docker or Podman says of the caller's container.

Selectors (as SPIRE names them): ``docker:label:KEY:VALUE``, ``docker:env:NAME=VALUE``, ``docker:image_id``
(the image's name as it was given) and ``docker:image_config_digest`` (``sha256:…`` of what the container was
really made from, even if the name means another image by now).

The container is found by the kernel's control groups (``cgroups``), and asked for at the engine that made it:
root's Docker, root's Podman, or the Podman of a user whose word the operator takes.  A user's own engine says of
that user's containers whatever the user likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.attest.documents import at, json_object, labels_at, text_at, texts_at
from vestibule.attest.ports import Http
from vestibule.attest.workload.cgroups import Container, Engine, cgroups_of, container_of
from vestibule.attest.workload.codes import CONTAINER_NOT_KNOWN, ENGINE_NOT_TRUSTED
from vestibule.attest.workload.ports import Process
from vestibule.spiffe import Selector

TYPE: Final = "docker"

EngineAt = Callable[[Path], Http]
"""The engine that serves a Unix socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSettings:
    """Where the engines serve; ``{uid}`` stands for the user's.

    ``podman_users`` are the users whose own (rootless) Podman is believed; ``env`` makes selectors of the
    environment that the container was started with.
    """

    socket: Path = Path("/var/run/docker.sock")
    podman_socket: Path = Path("/run/podman/podman.sock")
    podman_user_socket: str = "/run/user/{uid}/podman/podman.sock"
    podman_users: tuple[int, ...] = ()
    env: bool = True


class DockerAttestor:
    """Attests by a container engine's API."""

    name: Final = TYPE

    def __init__(self, settings: DockerSettings, engine_at: EngineAt) -> None:
        self._settings = settings
        self._engine_at = engine_at

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Nothing for a process outside of containers.

        Raises: VST2054, VST2055 (control groups), VST2060, VST2061 (engine), VST2340, VST2341, VST2312.
        """
        container = container_of(cgroups_of(process))
        if container is None or container.engine is Engine.CRI:
            return frozenset()
        facts = await self._inspect(container)
        return frozenset(Selector(TYPE, value) for value in self._values(facts))

    async def _inspect(self, container: Container) -> dict[str, Any]:
        engine = self._engine_at(self._socket(container))
        # The ID is 64 hex digits, so it cannot lead anywhere else.
        answer = await engine("GET", f"/containers/{container.id}/json")
        if answer.status != 200:
            raise CONTAINER_NOT_KNOWN.error(
                f"the engine answers {answer.status} for container {container.id[:12]}"
            )
        try:
            facts = json_object(answer.body)
        except ValueError as error:
            raise CONTAINER_NOT_KNOWN.error(f"the engine's answer is not understood: {error}") from error
        if text_at(facts, "Id") != container.id:
            raise CONTAINER_NOT_KNOWN.error(
                f"the engine answers with another container than {container.id[:12]}"
            )
        if at(facts, "State", "Running") is not True:
            raise CONTAINER_NOT_KNOWN.error(f"the engine does not run container {container.id[:12]}")
        return facts

    def _socket(self, container: Container) -> Path:
        settings = self._settings
        if container.owner is None:
            return settings.podman_socket if container.engine is Engine.PODMAN else settings.socket
        if container.engine is not Engine.PODMAN or container.owner not in settings.podman_users:
            raise ENGINE_NOT_TRUSTED.error(
                f"container {container.id[:12]} was made by user {container.owner}'s own engine"
            )
        socket = Path(settings.podman_user_socket.replace("{uid}", str(container.owner)))
        try:
            served_by = socket.stat().st_uid
        except OSError as error:
            raise CONTAINER_NOT_KNOWN.error(f"{socket}: {error.strerror}") from error
        if served_by != container.owner:
            raise ENGINE_NOT_TRUSTED.error(f"{socket} does not belong to user {container.owner}")
        return socket

    def _values(self, facts: dict[str, Any]) -> Iterator[str]:
        for key, value in labels_at(facts, "Config", "Labels").items():
            yield f"label:{key}:{value}"
        if self._settings.env:
            yield from (f"env:{each}" for each in texts_at(facts, "Config", "Env"))
        if name := text_at(facts, "Config", "Image"):
            yield f"image_id:{name}"
        if match := _DIGEST.fullmatch(text_at(facts, "Image")):
            yield f"image_config_digest:sha256:{match['hex']}"


_DIGEST = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{64})")
