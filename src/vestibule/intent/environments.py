"""One tree of files that holds several meshes: which of the files are those of one environment.

A file outside ``environments/`` is for every environment.  A file in ``environments/NAME/`` is for that one alone, and
stands there in place of the shared file of the same name, as a whole: nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vestibule.intent import codes
from vestibule.intent.files import ENVIRONMENTS, MESH, problem
from vestibule.intent.problems import Problem, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The files of one environment by the names that they stand for, and where each of them is.

    ``files`` are the same by their own paths.  ``name`` is None where there are no environments.
    """

    name: str | None
    contents: Mapping[str, bytes]
    places: Mapping[str, str]
    unread: frozenset[str]
    problems: tuple[Problem, ...] = ()

    @property
    def files(self) -> dict[str, bytes]:
        """By path."""
        return {self.places[name]: content for name, content in self.contents.items()}

    def place(self, name: str) -> str:
        """Where the file that is called ``name`` is, or would be."""
        if name == MESH and self.name is not None:
            return f"{ENVIRONMENTS}/{self.name}/{MESH}"
        return self.places.get(name, name)


def environments_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The environments that have any file."""
    parts = (path.split("/") for path in paths)
    return tuple(sorted({each[1] for each in parts if each[0] == ENVIRONMENTS and len(each) > 2}))


def concerns(path: str, environment: str | None) -> bool:
    """Whether a path is no other environment's."""
    parts = path.split("/")
    return environment is None or parts[0] != ENVIRONMENTS or len(parts) < 3 or parts[1] == environment


def choose(files: Mapping[str, bytes], unread: frozenset[str], wanted: str | None) -> Chosen:
    """The files of the environment ``wanted``; where there is only one, it need not be said which."""
    known = environments_of({*files, *unread})
    if not known:
        return Chosen(name=None, contents=files, places={name: name for name in files}, unread=unread)
    name = wanted or (known[0] if len(known) == 1 else None)
    if name is None or name not in known:
        return _nothing(name, known)
    prefix = f"{ENVIRONMENTS}/{name}/"
    places = {path: path for path in {*files, *unread} if not path.startswith(f"{ENVIRONMENTS}/")}
    shared = places.pop(MESH, None)
    places |= {path.removeprefix(prefix): path for path in {*files, *unread} if path.startswith(prefix)}
    problems = [_shared_mesh(shared)] if shared else []
    return Chosen(
        name=name,
        contents={each: files[path] for each, path in sorted(places.items()) if path in files},
        places=places,
        unread=frozenset(each for each, path in places.items() if path in unread),
        problems=tuple(problems),
    )


def _nothing(name: str | None, known: tuple[str, ...]) -> Chosen:
    if name is None:
        message = f"there are the environments {', '.join(known)}, and it is not said which one is meant"
        advice = f"Choose one, as by --environment {known[0]}."
    else:
        message = f"there is no environment {name!r}"
        close = nearest(name, known)
        advice = f"Did you mean {close!r}?" if close else f"Known environments: {', '.join(known)}."
    found = problem(codes.WHICH_ENVIRONMENT, message, ENVIRONMENTS, advice=advice)
    return Chosen(name=name, contents={}, places={}, unread=frozenset({"."}), problems=(found,))


def _shared_mesh(path: str) -> Problem:
    message = "each environment has a mesh.yaml of its own, so that this one is not read"
    return problem(codes.STRAY_FILE, message, path, advice="Move it to environments/NAME/mesh.yaml.")
