"""Commands that are imported when they run, not when the program lists them.

``vestibule --help`` and ``vestibule sidecar`` start fast because nothing else of the house is loaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from vestibule import __version__
from vestibule.cli.codes import MISSING_EXTRA, USAGE
from vestibule.cli.output import Exit, complain, envelope
from vestibule.errors import VestibuleError

OPTIONAL: Final = (
    *("aiosqlite", "alembic", "cel", "contrib", "envoy", "google.api", "google.rpc", "h11", "opentelemetry"),
    *(
        "prometheus_client",
        "ruamel",
        "sqlalchemy",
        "starlette",
        "udpa",
        "uvicorn",
        "uvloop",
        "validate",
        "xds",
    ),
)
"""Packages that only the complete installation has; one of another name that is missing is a bug."""

_UsageError: Final[Any] = typer.BadParameter.__base__
"""Click's; typer has brought it under more than one name."""


class Command(TyperCommand):
    """Its options are told as they are written: ``[default: none]`` is not a style of Rich's, to be left out."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As ``--help`` shows it."""
        for each in self.params:
            if told := getattr(each, "help", None):
                each.help = escape(told)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command's function is, as ``module:function``, and its line in the list of commands."""

    target: str
    help: str
    hidden: bool = False

    def load(self, name: str) -> Any:
        """The command itself."""
        module, _, function = self.target.partition(":")
        body = getattr(importlib.import_module(module), function)
        holder = typer.Typer(add_completion=False)
        holder.command(name, cls=Command, hidden=self.hidden)(body)
        return typer.main.get_command(holder)


def _missing(error: ModuleNotFoundError) -> VestibuleError | None:
    """What to say where a package of the complete installation is not there."""
    name = f"{error.name}."
    if not any(name.startswith(f"{package}.") for package in OPTIONAL):
        return None
    return MISSING_EXTRA.error(f"the package {error.name!r} is not installed")


class LazyGroup(TyperGroup):
    """Lists its commands by name and help alone, and loads the one that is called."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Lazy | LazyGroup],
        *,
        default: str | None = None,
        **attributes: Any,
    ) -> None:
        """``default`` is the member that is meant when none is named."""
        super().__init__(name=name, no_args_is_help=True, **attributes)
        self._default = default
        self._members = dict(members)
        for each, member in members.items():
            self.add_command(
                member
                if isinstance(member, LazyGroup)
                else TyperCommand(each, help=member.help, hidden=member.hidden),
                each,
            )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typed, with the default's name where none is."""
        if self._default is not None and (not args or (args[0].startswith("-") and args[0] != "--help")):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """What is called, loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        member = self._members.get(name or "")
        if isinstance(member, Lazy) and name is not None:
            command = member.load(name)
        return name, command, rest


class Program(LazyGroup):
    """The root: programs that asked for JSON get JSON, also when they were called wrongly."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run a command and exit."""
        words = sys.argv[1:] if args is None else list(args)
        json = _wants_json(words)
        try:
            return self._main_json(words, *more, **extra) if json else super().main(words, *more, **extra)
        except ModuleNotFoundError as error:
            # Wherever a command gets to importing it: when it is loaded, or only when it runs.
            missing = _missing(error)
            if missing is None:
                raise
        if json:
            sys.stdout.write(envelope("usage", None, [missing]) + "\n")
        else:
            complain(missing)
        sys.exit(Exit.REFUSED)

    def _main_json(self, words: Sequence[str], *more: Any, **extra: Any) -> Any:
        try:
            code = super().main(words, *more, **{**extra, "standalone_mode": False})
        except _UsageError as error:
            advice = f"See {error.ctx.command_path} --help." if error.ctx else None
            wrong = USAGE.error(error.format_message(), advice=advice)
            sys.stdout.write(envelope("usage", None, [wrong]) + "\n")
            code = Exit.USAGE
        sys.exit(code or Exit.FINE)


def _wants_json(words: Sequence[str]) -> bool:
    own = words[: words.index("--")] if "--" in words else words
    return any(
        word in ("--output=json", "-ojson") or (word in ("--output", "-o") and value == "json")
        for word, value in pairwise([*own, ""])
    )


def program(
    name: str,
    help_: str,
    commands: Mapping[str, Lazy],
    groups: Mapping[str, str],
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> LazyGroup:
    """The whole program; a command named ``entry create`` goes into the group ``entry``, and so on downwards.

    ``defaults`` are the commands of groups that are meant when none is named.
    """
    root = _root()
    members = _members("", commands, groups, defaults)
    return Program(name, members, help=help_, params=root.params, callback=root.callback)


def _members(
    prefix: str, commands: Mapping[str, Lazy], groups: Mapping[str, str], defaults: Mapping[str, str]
) -> dict[str, Lazy | LazyGroup]:
    """What is directly below ``prefix``, which is empty or ends with a space."""
    members: dict[str, Lazy | LazyGroup] = {}
    for path, command in commands.items():
        if not path.startswith(prefix):
            continue
        first, *deeper = path.removeprefix(prefix).split(" ")
        if not deeper:
            members[first] = command
        elif first not in members:
            group = prefix + first
            below = _members(f"{group} ", commands, groups, defaults)
            members[first] = LazyGroup(first, below, help=groups[group], default=defaults.get(group))
    return members


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vestibule {__version__}")
        raise typer.Exit


def _options_before_the_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Typer reads the options of the program itself from here."""


def _root() -> Any:
    """The options of the program itself, as typer makes them: ``--version`` and shell completion."""
    holder = typer.Typer(add_completion=True)
    holder.callback()(_options_before_the_command)
    return typer.main.get_command(holder)


__all__: Sequence[str] = ["Lazy", "LazyGroup", "Program", "program"]
