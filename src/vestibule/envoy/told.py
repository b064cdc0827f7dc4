"""What a denied caller is told where its service says ``deny_detail: caller``: code, rule, place and commit.

They stand in the body and in a header, ``x-vestibule-denied: VST4001 payments/no-contractors services/payments.yaml:14
COMMIT``; ``-`` is for what there is not.  Where no rule allows the call, the place is the file of the service.

Rules decide by ECDS and are explained by the route: its metadata hold, by what Envoy says of a denial, the rule's name
and place.  They are looked up when a denial is answered, and never else.  Only rules that deny are named by denials,
and of those ``MOST`` are told of with their lines; the others with the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    ResponseMapper,
)

from vestibule.errors import ErrorCode, Where
from vestibule.intent.model import Service

HEADER: Final = "x-vestibule-denied"
MOST: Final = 500
"""Rules whose lines routes tell of: 50 kB at most, sent with every commit."""

NOTHING: Final = "-"
ROUTE: Final = "vestibule.told"
"""Where in a route's metadata all this stands: apart from what goes along with every question to a decision service."""

FILE: Final = f"%METADATA(ROUTE:{ROUTE}:file)%"
REVISION: Final = f"%METADATA(ROUTE:{ROUTE}:revision)%"
VERSION: Final = f"%METADATA(ROUTE:{ROUTE}:intent_version)%"
DENIALS: Final = f"xds.route_metadata.filter_metadata['{ROUTE}']['denials']"
"""By what Envoy says of a denial, in CEL: the rule's name and place."""

_SAFE: Final = "/:._~+=@,"


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to tell of a service's denials: ``places`` are those of its rules that deny, by their names.

    ``commit`` is empty where the intent comes from no repository; ``version`` is its short hash.
    """

    version: str
    commit: str = ""
    file: str = ""
    places: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, service: Service | None, version: str, commit: str) -> Told:
        """Of a service as the intent was read last."""
        if service is None:
            return cls(version, commit)
        lines = tuple((rule.name, place_of(rule.where)) for rule in service.deny[:MOST] if rule.where)
        return cls(version, commit, place_of(service.where, line=False), lines)

    def metadata(self, *, centrally: bool) -> dict[str, Any]:
        """For a route.  ``centrally``: there is a decision service, which names rules and says no more."""
        found: dict[str, list[str]] = {}
        for name, place in self.places:
            found[f"rbac_access_denied_matched_policy[{name}]"] = [name, place]
            if centrally:
                found[name] = [name, place]
        told = {"revision": self.commit or self.version, "file": self.file or NOTHING}
        return {"intent_version": self.version, **told, "denials": found}


def place_of(where: Where | None, *, line: bool = True) -> str:
    """``services/payments.yaml:14``, fit for a header whatever the file is called; empty if it is not known."""
    if where is None:
        return ""
    file = quote(where.file, safe=_SAFE)
    return f"{file}:{where.line}" if line and where.line is not None else file


def looked_up(key: str, place: int) -> str:
    """A part of what stands under a key (in CEL) of ``DENIALS``, as a command operator."""
    return f"%CEL({DENIALS}[{key}][{place}])%"


def add_header(
    mapper: ResponseMapper, code: ErrorCode, rule: str = NOTHING, where: str = NOTHING
) -> ResponseMapper:
    """The same answer with the header; ``rule`` and ``where`` may hold command operators."""
    header = mapper.headers_to_add.add()
    header.append_action = header.OVERWRITE_IF_EXISTS_OR_ADD
    header.header.key, header.header.value = HEADER, f"{code.code} {rule} {where} {REVISION}"
    return mapper
