"""All that decides about the calls to one port of a service: the input of everything that decides or compiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vestibule.policy.rules import Rule
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPolicy:
    """The rules of one port, in the order of the intent, and what they may refer to besides the call.

    ``deny`` and ``allow`` hold rules of both modes.  ``emergencies`` are the permissions of break-glass, which allow
    what no rule allows; denials go before them.  ``labels`` are the service's, ``callers`` those of the services that
    may be meant by callers.
    """

    service: str
    port: str
    deny: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    emergencies: tuple[Rule, ...] = ()
    is_http: bool = True
    is_mcp: bool = False
    environment: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    callers: Mapping[SpiffeId, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )
