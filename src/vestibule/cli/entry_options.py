"""The options of ``vestibule entry``, each said once."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from vestibule.wire.gen.spire import types_pb2


class MatchOn(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How an entry's set compares with what is asked for: SPIRE's words."""

    EXACT = "exact"
    SUBSET = "subset"
    SUPERSET = "superset"
    ANY = "any"

    @property
    def wire(self) -> Any:
        """As messages have it."""
        return types_pb2.SelectorMatch.MatchBehavior.Value(f"MATCH_{self.name}")


class Form(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """Forms of an export."""

    YAML = "yaml"
    JSON = "json"


SpiffeIdOption = Annotated[
    str | None, typer.Option("--spiffe-id", help="The identity, perhaps with variables: …/{unix:user}.")
]
ParentOption = Annotated[
    str | None, typer.Option("--parent-id", help="An agent, a node alias, or another entry's identity.")
]
SelectorOption = Annotated[
    list[str] | None, typer.Option("--selector", help="TYPE:VALUE; all must match. Repeatable.")
]
TtlOption = Annotated[str | None, typer.Option("--x509-svid-ttl", help="Such as 1h; 0s: the default.")]
JwtTtlOption = Annotated[str | None, typer.Option("--jwt-svid-ttl", help="Such as 5m; 0s: the default.")]
DnsOption = Annotated[
    list[str] | None, typer.Option("--dns-name", help="A DNS name for the SVID. Repeatable.")
]
FederatesOption = Annotated[
    list[str] | None, typer.Option("--federates-with", help="A trust domain. Repeatable.")
]
HintOption = Annotated[
    str | None, typer.Option("--hint", help="How the workload tells its identities apart.")
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires-in", help="Remove the entry after, such as 7d.")
]
ExpiryOption = Annotated[
    str | None, typer.Option("--entry-expiry", help="Remove the entry at: Unix seconds or an instant.")
]
AdminOption = Annotated[
    bool | None, typer.Option("--admin/--no-admin", help="May administer the server: everything.")
]
DownstreamOption = Annotated[
    bool | None, typer.Option("--downstream/--no-downstream", help="Is a downstream server.")
]
StoreOption = Annotated[
    bool | None, typer.Option("--store-svid/--no-store-svid", help="For an SVID store, not the Workload API.")
]
PrefetchOption = Annotated[
    bool | None,
    typer.Option(
        "--disable-x509-svid-prefetch/--no-disable-x509-svid-prefetch",
        help="Agents get the certificate when a workload first asks.",
    ),
]
JtiOption = Annotated[
    bool | None,
    typer.Option("--jwt-svid-include-jti/--no-jwt-svid-include-jti", help="JWT-SVIDs have an ID (jti)."),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="For people and filters. Repeatable."),
]
ClaimOption = Annotated[
    list[str] | None,
    typer.Option(
        "--claim", metavar="NAME=VALUE", help="Into JWT-SVIDs; VALUE is JSON or a text. Repeatable."
    ),
]
IdentitiesOption = Annotated[
    int | None, typer.Option("--max-identities", help="How many identities a template may give.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="FILE|-", help="Many entries at once: JSON or YAML.")
]
MatchSelectorsOption = Annotated[
    MatchOn, typer.Option("--match-selectors-on", help="How --selector compares.")
]
MatchFederatesOption = Annotated[
    MatchOn, typer.Option("--match-federates-with-on", help="How --federates-with compares.")
]
DownstreamFilter = Annotated[bool | None, typer.Option("--downstream/--no-downstream", help="Only such.")]
LabelFilter = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME[=VALUE]", help="With this label. Repeatable."),
]
