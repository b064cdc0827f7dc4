"""From a symptom to the failures that it may be of, the likeliest first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vestibule.failures.certificates import CERTIFICATES
from vestibule.failures.deciding import DECIDING
from vestibule.failures.failure import Failure
from vestibule.failures.reaching import REACHING
from vestibule.failures.serving import SERVING
from vestibule.failures.symptom import Symptom

FAILURES: Final = (*CERTIFICATES, *DECIDING, *REACHING, *SERVING)
"""Those that say more stand before those that say less: what a handshake says of a certificate before that there was no
connection, and a rule by name before rules."""

_BY_NAME: Final[Mapping[str, Failure]] = MappingProxyType({each.name: each for each in FAILURES})


def explain(symptom: Symptom) -> tuple[Failure, ...]:
    """Every failure that it may be, the likeliest first; none for a symptom that nobody has seen before."""
    return tuple(each for each in FAILURES if each.explains(symptom))


def named(name: str) -> Failure:
    """The failure of this name.  Raises: KeyError."""
    return _BY_NAME[name]
