"""Where commands find an intent: in a directory, in a commit, or on the running server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vestibule.calls.git import Revision
from vestibule.cli.codes import NO_INTENT_RUNS
from vestibule.cli.sockets import find_sockets
from vestibule.errors import Where
from vestibule.intent import Intent, Loaded, Problem, load_files, load_tree
from vestibule.intent.files import Directory, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An intent as somebody named it; None if it does not hold.  Problems stand where an editor or git finds them.

    ``prefix`` begins the place of every file.
    """

    name: str
    intent: Intent | None
    problems: tuple[Problem, ...] = ()
    prefix: str = ""
    version: str | None = None

    @property
    def held(self) -> Intent:
        """The intent.  Raises: the first of its problems, if it does not hold."""
        if self.intent is None:
            raise next(each.error for each in self.problems)
        return self.intent

    def where(self, where: Where | None) -> str | None:
        """A place in it, as it can be opened from here."""
        return None if where is None else str(replace(where, file=f"{self.prefix}{where.file}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an intent is written: a directory, or a commit; ``prefix`` begins the place of every file in it."""

    name: str
    prefix: str
    directory: Path | None = None
    revision: Revision | None = None

    @contextmanager
    def tree(self) -> Iterator[Tree]:
        """Its files."""
        if self.revision is not None:
            with self.revision.tree() as tree:
                yield tree
        else:
            yield Directory(self.directory or Path())

    def load(self, environment: str | None) -> Loaded:
        """The intent.  A commit's version is the commit, as on a server that follows the repository."""
        with self.tree() as tree:
            loaded = load_tree(tree, environment)
        if self.revision is None or loaded.intent is None:
            return loaded
        return replace(loaded, intent=replace(loaded.intent, version=self.revision.commit[:12]))

    def placed(self, found: Problem) -> Problem:
        """A problem with its place as it can be opened from here: by an editor, or by ``git show``."""
        return replace(found, where=replace(found.where, file=f"{self.prefix}{found.where.file}"))


def place_of(text: str, around: Path | None = None) -> Place:
    """A directory, or a revision of the repository around ``around`` (the current directory).

    Raises: VST3220, VST3221, VST3230.
    """
    directory = Path(text)
    if directory.is_dir():
        return directory_place(directory)
    revision = Revision.find(text, around or Path(), os.environ.get("PATH", os.defpath))
    return Place(name=f"{text} ({revision.commit[:12]})", prefix=revision.place(""), revision=revision)


def directory_place(directory: Path) -> Place:
    """A directory, also one that is not there."""
    prefix = "" if directory == Path() else f"{directory}/"
    return Place(name=str(directory), prefix=prefix, directory=directory)


def find(text: str, environment: str | None, around: Path | None = None) -> Found:
    """What is written there.  Raises: as ``place_of``, and VST3226."""
    place = place_of(text, around)
    loaded = place.load(environment)
    return Found(
        name=place.name,
        intent=loaded.intent,
        problems=tuple(map(place.placed, loaded.problems)),
        prefix=place.prefix,
        version=loaded.intent.version if loaded.intent else None,
    )


async def meant(text: str | None, environment: str | None, server_socket: Path | None) -> Found:
    """What is written there, or what runs where nothing is named.  Raises: as ``find`` and ``running``, and VST9102."""
    if text is not None:
        return find(text, environment)
    return await running(find_sockets(server=server_socket).existing_server())


async def running(socket: Path) -> Found:
    """What runs.  Raises: VST2300 when nobody answers, VST9105 where no intent is in force."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import intent_pb2

    files: dict[str, bytes] = {}
    version = place = ""
    channel = unix_channel(socket)
    try:
        client = Client(channel, intent_pb2.DESCRIPTOR.services_by_name["IntentAdmin"])
        async with client.stream("GetFiles", timeout=30.0) as stream:
            await stream.send_message(intent_pb2.GetIntentFilesRequest(), end=True)
            async for part in stream:
                version, place = part.version, part.place
                files.update(part.files)
    finally:
        channel.close()
    loaded = load_files(files)
    if not version or loaded.intent is None:
        raise NO_INTENT_RUNS.error(f"no intent is in force on the server ({place or 'it was given none'})")
    intent = replace(loaded.intent, version=version)
    return Found(name=f"what runs ({version})", intent=intent, version=version)
