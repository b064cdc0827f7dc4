"""Commands with many options take them in groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def in_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a dataclass replaced by an option for each of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            shown.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
            )
            continue
        group = groups[parameter.name]
        types = get_type_hints(group, include_extras=True)
        for each in fields(group):
            kind = inspect.Parameter.KEYWORD_ONLY
            shown.append(
                inspect.Parameter(each.name, kind, default=each.default, annotation=types[each.name])
            )

    @wraps(command)
    def ungrouped(**options: Any) -> None:
        taken = {
            name: group(**{each.name: options.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        command(**taken, **options)

    ungrouped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    ungrouped.__annotations__ = {each.name: each.annotation for each in shown} | {"return": None}
    return ungrouped
