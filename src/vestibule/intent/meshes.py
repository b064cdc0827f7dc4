"""The mesh: its name, what holds for all of its services, its roles."""

from __future__ import annotations

from types import MappingProxyType

from vestibule.intent import bounds_keys, language, traffic_keys
from vestibule.intent.model import DEFAULT_TEMPLATE, DEFAULT_TIMEOUT, Defaults, Mesh, Rollout
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names
from vestibule.intent.retries import check_tries, warn_of_repeats
from vestibule.intent.shapes import Fields


def build_mesh(fields: Fields | None, names: Names, defaults: Defaults) -> Mesh | None:
    """The mesh, if all that it must have is there."""
    if fields is None:
        return None
    name, environment = fields.get(language.MESH_NAME), fields.get(language.ENVIRONMENT)
    if not (name and environment and names.trust_domain):
        return None
    return Mesh(
        name=name.value,
        trust_domain=names.trust_domain,
        environment=environment.value,
        identity_template=fields.value(language.IDENTITY, DEFAULT_TEMPLATE),
        defaults=defaults,
        rollout=fields.value(language.ROLLOUT, Rollout()),
        roles=MappingProxyType({role: members or () for role, members in names.roles.items()}),
    )


def build_defaults(fields: Fields | None, findings: Findings) -> Defaults:
    """What holds for every service that does not say otherwise."""
    said = fields.get(language.DEFAULTS) if fields else None
    if said is None:
        return Defaults()
    plain = Defaults()
    retry = said.value.get(traffic_keys.RETRY)
    defaults = Defaults(
        timeout=said.value.value(language.TIMEOUT, DEFAULT_TIMEOUT),
        retry=retry.value if retry else plain.retry,
        circuit=said.value.value(bounds_keys.CIRCUIT, plain.circuit),
        outlier=said.value.value(bounds_keys.OUTLIER, None),
    )
    if retry:
        check_tries(retry.value, defaults.timeout, retry.at, findings)
        warn_of_repeats(retry.value, frozenset(), None, retry.at, findings)
    return defaults
