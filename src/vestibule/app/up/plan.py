"""What a run consists of: an intent directory that holds together, and the commands of its apps."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import vestibule
from vestibule.app.up.codes import NO_INTENT, NOTHING_TO_RUN
from vestibule.app.up.committed import Committed
from vestibule.intent import App, Intent, Problem, Severity, load, load_up
from vestibule.records import Boundary
from vestibule.spiffe import SpiffeId

EXAMPLE: Final = Path("examples", "shop")
PYTHONS: Final = frozenset({"python", "python3"})
FOLDERS: Final = frozenset({"services", "secrets", "egress", "gateways", "certs", "environments"})
NOT_COPIED: Final = frozenset({".vestibule", "__pycache__", ".git", ".hg", ".svn"})
LINKED: Final = frozenset({".venv", "venv", "node_modules", "target", ".tox"})
"""Directories of dependencies: large, only read by apps, and so lent to a copy instead of copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePlan:
    """One instance of a service to start.  ``name`` is unique in the run: ``orders``, ``orders-2``, ``orders@v2``.

    A gateway has no app.
    """

    name: str
    service: str
    app: App | None = None
    boundary: Boundary = Boundary.TRUST


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An intent and the apps to run for it.  ``problems`` are warnings only.

    ``committed``: the server follows these commits instead of the files.  ``locality`` is where the node is said to be.
    """

    directory: Path
    intent: Intent
    apps: tuple[App, ...]
    gateways: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    environment: str | None = None
    boundary: Boundary = Boundary.TRUST
    committed: Committed | None = None
    locality: str = ""

    @property
    def services(self) -> tuple[str, ...]:
        """The services that run."""
        return tuple(app.service for app in self.apps)

    @property
    def instances(self) -> tuple[InstancePlan, ...]:
        """Every instance of every app."""
        return tuple(
            InstancePlan(
                name=name if number == 1 else f"{name}-{number}",
                service=app.service,
                app=version,
                boundary=self.boundary,
            )
            for app in self.apps
            for name, version in _versions(app)
            for number in range(1, version.instances + 1)
        )

    @property
    def identities(self) -> Mapping[str, SpiffeId]:
        """Who everything that runs is, by the names of services and gateways."""
        services = {name: self.intent.services[name].spiffe_id for name in self.services}
        return services | {name: self.intent.gateways[name].spiffe_id for name in self.gateways}


def _versions(app: App) -> Iterator[tuple[str, App]]:
    """The versions of an app to run, by what their instances are called."""
    yield app.service, app
    for other in app.others:
        yield f"{app.service}@{other.version}", other


def find_directory(named: Path | None) -> Path:
    """The directory that was named, or the example that comes with Vestibule.  Raises: VST7300."""
    if named is not None:
        if not named.is_dir():
            raise NO_INTENT.error(f"{named} is not a directory")
        return named.absolute()
    package = Path(vestibule.__file__).parent
    # In an installed package the example lies inside it, in a checkout beside src/.
    for candidate in (package / EXAMPLE, package.parent.parent / EXAMPLE):
        if (candidate / "mesh.yaml").is_file():
            return candidate
    raise NO_INTENT.error("no directory was named, and the example is not installed")


def make_plan(
    directory: Path, environment: str | None = None, boundary: Boundary | None = None
) -> Plan | tuple[Problem, ...]:
    """Read the directory: a plan, or everything that is wrong with it.  ``boundary`` overrules what ``up.yaml`` says.

    Raises: VST7301.
    """
    loaded = load(directory, environment)
    apps = load_up(directory, loaded.intent, environment)
    problems = tuple(
        replace(each, where=replace(each.where, file=str(directory / each.where.file)))
        for each in (*loaded.problems, *apps.problems)
    )
    if loaded.intent is None or apps.up is None:
        return tuple(each for each in problems if each.severity is Severity.ERROR)
    if not apps.up.apps:
        raise NOTHING_TO_RUN.error(f"{directory / 'up.yaml'} names no app")
    chosen = tuple(app for _, app in sorted(apps.up.apps.items()))
    return Plan(
        directory=directory,
        intent=loaded.intent,
        apps=chosen,
        gateways=apps.up.gateways,
        problems=problems,
        environment=environment,
        boundary=boundary or apps.up.boundary,
    )


def command_of(app: App) -> tuple[str, ...]:
    """The app's command; ``python`` means the interpreter that runs Vestibule."""
    program, *arguments = app.run
    return (sys.executable if program in PYTHONS else program, *arguments)


def copy_intent(source: Path, target: Path) -> Path:
    """A private copy of an intent directory with its apps, for a run that edits its files.

    Whatever is intent is copied, also through symbolic links; other linked directories stay links, directories of
    dependencies become links, histories and caches are left out.  Raises: VST7300 for a file that cannot be read.
    """
    try:
        _copy(source, target, followed=FOLDERS)
    except OSError as error:
        raise NO_INTENT.error(f"cannot copy {error.filename or source}: {error.strerror}") from error
    return target


def _copy(source: Path, target: Path, followed: frozenset[str] = frozenset()) -> None:
    target.mkdir(mode=0o700)
    for entry in sorted(source.iterdir()):
        copied = target / entry.name
        if entry.name in NOT_COPIED:
            continue
        if entry.is_dir():
            lent = entry.is_symlink() or entry.name in LINKED
            if lent and entry.name not in followed:
                copied.symlink_to(entry.resolve())
            else:
                _copy(entry, copied)
        elif entry.is_file():
            shutil.copy2(entry, copied)
