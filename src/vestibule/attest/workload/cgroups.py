"""From a process's control groups to its container: the one fact about containers that the kernel itself keeps.

``/proc/PID/cgroup`` is written by the kernel, but the *names* in it are chosen by whoever made the groups, and
parts of the tree are in the hands of ordinary users and of containers.  So a name is believed only where its
maker must have been root on the host, or the named user's own engine:

1. The outermost container (or pod) of a path counts.  What stands below was made from inside that container.
2. Nothing that a service or session was given to manage (``*.service``, ``*.scope``) may stand above it, but
   for the container runtimes' own services.
3. Below ``user@UID.service`` everything belongs to that user; the container is then that user's (``owner``).
4. All hierarchies must agree.

``/proc/PID/mountinfo`` is not consulted: a workload can mount another one's group into its own view.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import dropwhile
from typing import Final

from vestibule.attest.workload.codes import AMBIGUOUS_CONTAINER, MALFORMED_CGROUPS
from vestibule.attest.workload.ports import Process

MAX_LINES: Final = 256
MAX_BYTES: Final = 256 * 1024


class Engine(Enum):
    """Who made a container, as far as its group's name tells."""

    DOCKER = "docker"
    PODMAN = "podman"
    CRI = "cri"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """One line: in which group of which hierarchy the process is."""

    hierarchy: int
    controllers: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container: 64 hex digits, its pod if it is in one, and the user whose engine made it, if not root's."""

    id: str
    engine: Engine
    pod_uid: str | None = None
    owner: int | None = None


def cgroups_of(process: Process) -> tuple[Cgroup, ...]:
    """The control groups of a process.  Raises: VST2054, VST2312."""
    data = process.read("cgroup", MAX_BYTES)
    if len(data) >= MAX_BYTES:
        raise MALFORMED_CGROUPS.error(f"the control groups of process {process.pid} are too long")
    return parse_cgroups(data)


def parse_cgroups(data: bytes) -> tuple[Cgroup, ...]:
    """Read ``/proc/PID/cgroup``.  Raises: VST2054 for anything that no kernel writes."""
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise MALFORMED_CGROUPS.error("the control groups are not UTF-8") from error
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) > MAX_LINES:
        raise MALFORMED_CGROUPS.error(f"{len(lines)} control groups are more than there can be")
    return tuple(_parse_line(line) for line in lines)


def _parse_line(line: str) -> Cgroup:
    number, _, rest = line.partition(":")
    controllers, colon, path = rest.partition(":")
    if not _NUMBER.fullmatch(number) or not colon or not path.startswith("/") or "\0" in path:
        raise MALFORMED_CGROUPS.error("a line of the control groups is not HIERARCHY:CONTROLLERS:/PATH")
    return Cgroup(hierarchy=int(number), controllers=controllers, path=path)


def container_of(cgroups: Sequence[Cgroup]) -> Container | None:
    """The container of a process, ``None`` outside of containers.  Raises: VST2055 if hierarchies disagree."""
    return _agreed(container_in(each.path) for each in cgroups)


def pod_container_of(cgroups: Sequence[Cgroup]) -> Container | None:
    """The Kubernetes container of a process, ``None`` outside of pods.

    The pod is missing where the agent, itself in a pod, sees paths only relative to its own group.
    Raises: VST2055 if hierarchies disagree.
    """
    return _agreed(pod_container_in(each.path) for each in cgroups)


def _agreed(answers: Iterable[Container | None]) -> Container | None:
    # Hierarchies that say nothing are usual: not every runtime uses every controller.
    found = {each for each in answers if each is not None}
    if len(found) > 1:
        ids = ", ".join(sorted(each.id[:12] for each in found))
        raise AMBIGUOUS_CONTAINER.error(f"the control groups name more than one container: {ids}")
    return next(iter(found), None)


def container_in(path: str) -> Container | None:
    """The outermost container of one path."""
    segments, owner = _of_user(_segments(path))
    for place, segment in enumerate(segments):
        if match := _CONTAINER.fullmatch(segment):
            return _container(match, segments[:place], owner)
        if _is_foreign(segment):
            return None
    return None


def pod_container_in(path: str) -> Container | None:
    """The container of the outermost pod of one path, directly below the pod's group."""
    segments = _segments(path)
    relative = bool(segments) and segments[0] == ".."
    for place, segment in enumerate(segments):
        if match := _POD_AND_CONTAINER.fullmatch(segment):
            return Container(id=match["id"], engine=Engine.CRI, pod_uid=_uid(match["pod"]))
        if match := _POD.fullmatch(segment):
            return _in_pod(segments[place + 1 :], _uid(match["pod"]))
        if _is_foreign(segment) or _CONTAINER.fullmatch(segment):
            break
    # Seen from a pod, a sibling container is /../NAME and its pod's own group is not shown.
    return _in_pod(list(dropwhile("..".__eq__, segments)), None) if relative else None


def _in_pod(below: list[str], pod_uid: str | None) -> Container | None:
    if below and (match := _CONTAINER.fullmatch(below[0])):
        return Container(id=match["id"], engine=_engine(match, ["pod"]), pod_uid=pod_uid)
    return None


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _of_user(segments: list[str]) -> tuple[list[str], int | None]:
    """What stands below a user's own service manager, and whose that is."""
    if len(segments) >= 3 and segments[0] == "user.slice" and (match := _USER.fullmatch(segments[2])):
        uid = match["uid"]
        return (segments[3:], int(uid)) if segments[1] == f"user-{uid}.slice" else ([], None)
    return segments, None


def _is_foreign(segment: str) -> bool:
    """Whether what stands below may have been named by somebody else than root."""
    return segment.endswith((".service", ".scope")) and segment not in _RUNTIMES


def _container(match: re.Match[str], above: list[str], owner: int | None) -> Container:
    pod = next((_uid(found["pod"]) for each in above if (found := _POD.fullmatch(each))), None)
    return Container(id=match["id"], engine=_engine(match, above), pod_uid=pod, owner=owner)


def _engine(match: re.Match[str], above: list[str]) -> Engine:
    prefix = match["prefix"]
    if prefix:
        return _ENGINES[prefix]
    parent = above[-1] if above else ""
    return Engine.DOCKER if parent == "docker" else Engine.UNKNOWN


def _uid(text: str) -> str:
    # systemd's names cannot hold dashes: the kubelet writes underscores for them.
    return text.replace("_", "-")


_NUMBER = re.compile(r"[0-9]{1,9}")
_USER = re.compile(r"user@(?P<uid>[0-9]{1,10})\.service")
_ENGINES: Final = {
    "docker-": Engine.DOCKER,
    "libpod-": Engine.PODMAN,
    "crio-": Engine.CRI,
    "cri-containerd-": Engine.CRI,
    "cri-o-": Engine.CRI,
}
_ID: Final = r"(?P<id>[0-9a-f]{64})"
_CONTAINER = re.compile(rf"(?P<prefix>{'|'.join(_ENGINES)})?{_ID}(?:\.scope)?")
_POD_UID: Final = r"(?P<pod>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_POD = re.compile(rf"(?:[a-z0-9_-]*-)?pod{_POD_UID}(?:\.slice)?")
_POD_AND_CONTAINER = re.compile(rf"(?:[a-z0-9_-]*-)?pod{_POD_UID}\.slice:cri-containerd:{_ID}")
_RUNTIMES: Final = frozenset(
    f"{name}.service"
    for name in ("containerd", "docker", "crio", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent")
)
