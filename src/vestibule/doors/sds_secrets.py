"""A workload's secrets by the names that SPIRE gives them, and what an Envoy says of itself about them.

    default             the caller's first identity           certificate and key
    spiffe://TD/path    one of the caller's identities        certificate and key
    ROOTCA              the own trust domain's bundle         validation context
    spiffe://TD         a trust domain's bundle               validation context
    ALL                 every bundle                          validation context

    vestibule/authorities   the own trust domain's      the same without the SPIFFE validator, whoever asks

The three short names can be others.  They are second names: who asks for everything gets each secret once, by its
SPIFFE ID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from vestibule.agent.workloads import Identities
from vestibule.envoy.names import AUTHORITIES_SECRET
from vestibule.envoy.tls_secrets import certificate_secret, plain_validation_secret, validation_secret
from vestibule.spiffe import TrustBundle
from vestibule.xds.resources import SECRET, Resource, Snapshot

DISABLE_KEY: Final = "disable_spiffe_cert_validation"
"""SPIRE's key in an Envoy's node metadata; what it says wins over the agent's setting."""
FIRST_WITH_VALIDATOR: Final = (1, 18)
"""SPIRE's bound: older Envoys get plain contexts, whatever else is said."""
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Role(Enum):
    """What a short name stands for."""

    AUTHORITIES = auto()
    SVID = auto()
    BUNDLE = auto()
    ALL_BUNDLES = auto()


BUILT_IN: Final[Mapping[str, Role]] = {
    "default": Role.SVID,
    "ROOTCA": Role.BUNDLE,
    "ALL": Role.ALL_BUNDLES,
    AUTHORITIES_SECRET: Role.AUTHORITIES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SdsSettings:
    """How secrets are named and bundles are told; SPIRE's settings of the same names, with its defaults.

    Raises: ValueError for names that are empty, not distinct, or those of SPIFFE IDs.
    """

    default_svid_name: str = "default"
    default_bundle_name: str = "ROOTCA"
    default_all_bundles_name: str = "ALL"
    disable_spiffe_cert_validation: bool = False

    def __post_init__(self) -> None:
        names = (self.default_svid_name, self.default_bundle_name, self.default_all_bundles_name)
        if len(set(names)) < len(names):
            raise ValueError("the default names of secrets are not distinct")
        for name in names:
            if not name or name.startswith("spiffe://"):
                raise ValueError(f"{name!r} cannot be a default name of secrets")

    @property
    def short_names(self) -> dict[str, Role]:
        """What each short name stands for.  A built-in name keeps its meaning unless a setting gives it another."""
        return {
            **BUILT_IN,
            self.default_svid_name: Role.SVID,
            self.default_bundle_name: Role.BUNDLE,
            self.default_all_bundles_name: Role.ALL_BUNDLES,
        }


def takes_validator(node: Any, settings: SdsSettings) -> bool:
    """Whether an Envoy, by its ``Node``, is to get Envoy's SPIFFE validator instead of plain authorities."""
    disabled = settings.disable_spiffe_cert_validation
    if DISABLE_KEY in node.metadata.fields:
        said = _truth(node.metadata.fields[DISABLE_KEY])
        disabled = disabled if said is None else said
    if node.HasField("user_agent_build_version"):
        version = node.user_agent_build_version.version
        return not disabled and (version.major_number, version.minor_number) >= FIRST_WITH_VALIDATOR
    return not disabled


def _truth(value: Any) -> bool | None:
    """A truth value or Go's words for one; None for anything else."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return bool(value.bool_value)
        case "string_value" if value.string_value in _TRUE | _FALSE:
            return value.string_value in _TRUE
        case _:
            return None


def secrets_of(
    identities: Identities,
    *,
    short_names: Mapping[str, Role] = BUILT_IN,
    asked: Collection[str] | None = None,
    validator: bool = True,
) -> Snapshot:
    """All secrets of a workload by SPIFFE ID, and by those short names that were ``asked`` for (None: by all).

    Without ``validator`` bundles are plain authorities, and there is no secret of all bundles: it would let every
    trust domain vouch for every other.
    """
    wanted = {name: role for name, role in short_names.items() if asked is None or name in asked}
    made = _Secrets(identities, validator)
    resources = [Resource.of(SECRET, name, body) for name, body in made.all(wanted)]
    versions = "".join(resource.version for resource in resources)
    return Snapshot.of(hashlib.sha256(versions.encode()).hexdigest()[:16], resources)


@dataclass(frozen=True, slots=True)
class _Secrets:
    identities: Identities
    validator: bool

    def all(self, short_names: Mapping[str, Role]) -> Iterator[tuple[str, bytes]]:
        seen: set[str] = set()
        for svid in self.identities.svids:
            # Of several entries with the same identity the first one counts, as in the Workload API.
            if (name := str(svid.spiffe_id)) not in seen:
                seen.add(name)
                yield name, certificate_secret(name, svid)
        for bundle in _bundles(self.identities):
            name = str(bundle.trust_domain.id)
            yield name, self._context(name, [bundle])
        for name, role in short_names.items():
            yield from self._short(name, role)

    def _short(self, name: str, role: Role) -> Iterator[tuple[str, bytes]]:
        match role:
            case Role.SVID:
                yield name, certificate_secret(name, self.identities.svids[0])
            case Role.BUNDLE:
                yield name, self._context(name, [self.identities.bundle])
            case Role.AUTHORITIES:
                yield name, plain_validation_secret(name, [self.identities.bundle])
            case Role.ALL_BUNDLES:
                if self.validator:
                    yield name, validation_secret(name, _bundles(self.identities))

    def _context(self, name: str, bundles: list[TrustBundle]) -> bytes:
        return (validation_secret if self.validator else plain_validation_secret)(name, bundles)


def _bundles(identities: Identities) -> list[TrustBundle]:
    """The own trust domain's bundle, and those that the workload federates with; Envoy refuses empty ones."""
    return [identities.bundle, *(each for each in identities.federated if each.x509_authorities)]
