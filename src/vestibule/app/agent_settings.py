"""What an agent is told: from the command line, else from its YAML file, else the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vestibule.app.agent import AgentSettings
from vestibule.app.codes import INVALID_SETTING
from vestibule.app.configuration.meanings import AGENT
from vestibule.errors import VestibuleError

if TYPE_CHECKING:
    from vestibule.app.configuration.files import ReadFile

_FROM_A_FILE: Final = {
    "workload_attestors": ("--attestors",),
    "node_attestor": ("--attestors",),
}
"""Options that also say something of a setting."""


def agent_settings(
    told: Mapping[str, Any], is_given: Callable[[str], bool], config: Path | None
) -> AgentSettings:
    """``told`` are the options' values, given or by default; the file's win over those that were not given.

    Raises: VST9110, ``SeveralError`` for a file, and what the settings object to.
    """
    values = dict(told)
    file = None if config is None else _read(config)
    for name, value in (file.values if file else {}).items():
        if not any(map(is_given, options_of(name))):
            values[name] = value
    for needed, option in (("trust_domain", "--trust-domain"), ("server", "--server")):
        if needed not in values:
            advice = f"Give {option}, or {needed} in the file that --config names."
            raise INVALID_SETTING.error(f"{needed} is not set", advice=advice)
    try:
        return AgentSettings(**values)
    except VestibuleError as error:
        if file is None:
            raise
        raise file.located(error) from error


def _read(path: Path) -> ReadFile:
    # Late: an agent without a file pays nothing for the reader.
    from vestibule.app.configuration.files import agent_configuration

    return agent_configuration().read(path)


def options_of(name: str) -> tuple[str, ...]:
    """The options that win over a setting of the file; of settings that belong together, those of each."""
    found = [each.option for key, each in AGENT.items() if key == name or key.startswith(f"{name}.")]
    return (*filter(None, found), *_FROM_A_FILE.get(name, ()))
