"""Which attestors are wanted, with which settings: from the command line, from YAML, and into typed values.

On the command line ``NAME`` or ``NAME=KEY=VALUE,KEY=VALUE``; a key that takes several values is repeated.  In
YAML, a mapping of names to mappings.  Attestors that others wrote are found as entry points of their packages.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from vestibule.app.codes import INVALID_SETTING
from vestibule.errors import VestibuleError

WORKLOAD_PLUGINS: Final = "vestibule.workload_attestors"
NODE_PLUGINS: Final = "vestibule.node_attestors"
PROOF_PLUGINS: Final = "vestibule.node_proofs"

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SWITCH: Final = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One attestor that is wanted; ``values`` are as they were given."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise INVALID_SETTING.error(f"{self.name!r} is not the name of an attestor")


def parse_choice(text: str) -> Choice:
    """Read ``docker`` or ``docker=socket=/run/docker.sock,env=off``.  Raises: VST9110."""
    name, _, rest = text.partition("=")
    values: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise INVALID_SETTING.error(
                f"attestor {name}: {key!r} has no value", advice=f"Write {key}=VALUE."
            )
        # Said twice, it is a list.
        values[key] = [*_listed(values[key]), value] if key in values else value
    return Choice(name=name, values=values)


def read_attestors(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A YAML file with these keys at most.  Raises: VST9110."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise INVALID_SETTING.error(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or not set(document) <= set(keys):
        raise INVALID_SETTING.error(f"{path} is not a mapping of {' and '.join(keys)}")
    return document


def choices_of(document: Any) -> tuple[Choice, ...]:
    """Read a mapping of names to settings, or a list of texts as on the command line.  Raises: VST9110."""
    if isinstance(document, Mapping):
        return tuple(_choice(str(name), values) for name, values in document.items())
    if isinstance(document, Sequence) and not isinstance(document, str):
        return tuple(each if isinstance(each, Choice) else parse_choice(str(each)) for each in document)
    raise INVALID_SETTING.error("attestors are a mapping of names to their settings")


def _choice(name: str, values: Any) -> Choice:
    if values is not None and not isinstance(values, Mapping):
        raise INVALID_SETTING.error(f"attestor {name}: its settings are not a mapping")
    return Choice(name=name, values=values or {})


def settings_of(kind: type[T], choice: Choice) -> T:
    """The choice's values as a settings dataclass.  Raises: VST9110."""
    return _build(kind, choice.values, f"attestor {choice.name}")


def no_settings(choice: Choice) -> None:
    """Raises: VST9110 if any were given."""
    if choice.values:
        raise INVALID_SETTING.error(f"attestor {choice.name} has no settings")


def no_name_twice(choices: Sequence[Choice]) -> None:
    """Raises: VST9110 if an attestor is chosen twice."""
    names = [choice.name for choice in choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise INVALID_SETTING.error(f"attestor {', '.join(twice)} is chosen twice")


def plugin(group: str, choice: Choice, known: Sequence[str]) -> Callable[..., Any]:
    """The factory of an attestor that another package brings.  Raises: VST9110 if there is none."""
    for entry in entry_points(group=group, name=choice.name):
        factory: Callable[..., Any] = entry.load()
        return factory
    names = sorted({*known, *(entry.name for entry in entry_points(group=group))})
    near = get_close_matches(choice.name, names, 1)
    advice = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(names)}."
    raise INVALID_SETTING.error(f"there is no attestor {choice.name!r}", advice=advice)


def _build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(kind)
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            near = get_close_matches(str(key), hints, 1)
            advice = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(hints))}."
            raise INVALID_SETTING.error(f"{where}: unknown setting {key!r}", advice=advice)
        try:
            built[key] = _typed(hints[key], value, f"{where}: {key}")
        except (TypeError, ValueError) as error:
            raise INVALID_SETTING.error(f"{where}: {key} {value!r} has no sensible value: {error}") from error
    for each in fields(kind):  # type: ignore[arg-type]  # a settings class is a dataclass
        if each.name not in built and each.default is MISSING and each.default_factory is MISSING:
            raise INVALID_SETTING.error(f"{where}: {each.name} is not set")
    return kind(**built)


def _typed(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        # Only ``X | None`` stands in settings; "off" is how the command line says None.
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return None if value in (None, "off", False) else _typed(inner, value, where)
    if get_origin(hint) is tuple:
        return tuple(_typed(get_args(hint)[0], each, where) for each in _listed(value))
    if get_origin(hint) is not None and issubclass(get_origin(hint), Mapping):
        if not isinstance(value, Mapping):
            raise TypeError("a mapping belongs here")
        return {
            str(key): _build(get_args(hint)[1], _mapping(each), f"{where}.{key}")
            for key, each in value.items()
        }
    if hint is bool:
        return value if isinstance(value, bool) else _switch(str(value))
    if isinstance(value, (Mapping, list)) or value is None:
        raise TypeError("one value belongs here")
    return Path(str(value)).expanduser().absolute() if hint is Path else hint(str(value))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("a mapping belongs here")
    return value


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError("true or false belongs here")
    return _SWITCH[text.lower()]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def invalid(choice: Choice, error: VestibuleError) -> VestibuleError:
    """An attestor's own objection to its settings, as that of the setting."""
    return INVALID_SETTING.error(f"attestor {choice.name}: {error.message}", advice=error.advice)
