"""``vestibule federation``: with which other trust domains, and how it goes."""

from __future__ import annotations

import json
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from vestibule.cli.bundle import DeletionMode, outcomes
from vestibule.cli.bundle_files import FileFormat, parse_bundle, read_file, to_message
from vestibule.cli.codes import USAGE
from vestibule.cli.output import Exit, Output, OutputOption, answer, console, run
from vestibule.cli.server_calls import PAGE, ServerCalls, errors_of, every_page, instant, server_calls
from vestibule.cli.sockets import ServerSocketOption
from vestibule.errors import VestibuleError
from vestibule.pki.json_documents import parse_object
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.wire.gen.spire import bundle_pb2, trustdomain_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import federation_pb2


class Profile(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """How the bundle endpoint proves who it is."""

    HTTPS_SPIFFE = "https_spiffe"
    HTTPS_WEB = "https_web"


class BundleFate(str, Enum):  # noqa: UP042 - as above
    """What becomes of the bundle when its relationship is deleted."""

    KEEP = "keep"
    RESTRICT = "restrict"
    DISSOCIATE = "dissociate"
    DELETE = "delete"


UrlOption = Annotated[
    str | None, typer.Option("--bundle-endpoint-url", help="Where its bundle is fetched: https://…")
]
ProfileOption = Annotated[
    Profile | None, typer.Option("--bundle-endpoint-profile", help="How that endpoint is known.")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint-spiffe-id", help="For https_spiffe: who the endpoint is.")
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--trust-domain-bundle", help="Its bundle to begin with; - reads standard input."),
]
FormatOption = Annotated[
    FileFormat | None,
    typer.Option("--trust-domain-bundle-format", help="Of that bundle. [default: found out]"),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Instead: relationships in SPIRE's JSON; - reads standard input."),
]
_FIELDS: Final = {
    "trustDomain": "trust_domain",
    "bundleEndpointURL": "url",
    "bundleEndpointProfile": "profile",
    "endpointSPIFFEID": "endpoint",
    "trustDomainBundle": "bundle",
    "trustDomainBundleFormat": "form",
}


def create(
    trust_domain: Annotated[str | None, typer.Argument(metavar="[TRUST-DOMAIN]")] = None,
    bundle_endpoint_url: UrlOption = None,
    bundle_endpoint_profile: ProfileOption = None,
    endpoint_spiffe_id: EndpointOption = None,
    trust_domain_bundle: BundleOption = None,
    trust_domain_bundle_format: FormatOption = None,
    data: DataOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Federate with a trust domain: its bundle is fetched from now on."""

    async def main() -> Exit:
        given = (bundle_endpoint_url, bundle_endpoint_profile, endpoint_spiffe_id)
        wanted = _wanted(trust_domain, given, (trust_domain_bundle, trust_domain_bundle_format), data)
        for each in wanted:
            if not each.bundle_endpoint_url or each.WhichOneof("bundle_endpoint_profile") is None:
                raise USAGE.error(
                    "a relationship needs --bundle-endpoint-url and --bundle-endpoint-profile: they are not guessed"
                )
        request = trustdomain_pb2.BatchCreateFederationRelationshipRequest(federation_relationships=wanted)
        async with server_calls(server_socket) as calls:
            results = (await calls.domains.unary("BatchCreateFederationRelationship", request)).results
        return _told(output, "federation-created", results)

    run(output, "federation-created", main)


def update(
    trust_domain: Annotated[str | None, typer.Argument(metavar="[TRUST-DOMAIN]")] = None,
    bundle_endpoint_url: UrlOption = None,
    bundle_endpoint_profile: ProfileOption = None,
    endpoint_spiffe_id: EndpointOption = None,
    trust_domain_bundle: BundleOption = None,
    trust_domain_bundle_format: FormatOption = None,
    data: DataOption = None,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Change what is given of a relationship; everything else stays."""

    async def main() -> Exit:
        given = (bundle_endpoint_url, bundle_endpoint_profile, endpoint_spiffe_id)
        wanted = _wanted(trust_domain, given, (trust_domain_bundle, trust_domain_bundle_format), data)
        async with server_calls(server_socket) as calls:
            results = []
            for each in wanted:
                mask = types_pb2.FederationRelationshipMask(
                    bundle_endpoint_url=bool(each.bundle_endpoint_url),
                    bundle_endpoint_profile=each.WhichOneof("bundle_endpoint_profile") is not None,
                    trust_domain_bundle=each.HasField("trust_domain_bundle"),
                )
                if mask == types_pb2.FederationRelationshipMask():
                    raise USAGE.error("there is nothing to change")
                request = trustdomain_pb2.BatchUpdateFederationRelationshipRequest(
                    federation_relationships=[each], input_mask=mask
                )
                response = await calls.domains.unary("BatchUpdateFederationRelationship", request)
                results += response.results
        return _told(output, "federation-updated", results)

    run(output, "federation-updated", main)


def delete(
    trust_domains: Annotated[list[str], typer.Argument(metavar="TRUST-DOMAIN")],
    bundle: Annotated[
        BundleFate,
        typer.Option(
            "--bundle", help="keep it as it is, or delete it, too: with the modes of bundle delete."
        ),
    ] = BundleFate.KEEP,
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Fetch bundles of these trust domains no longer; what is held stays trusted, unless it is deleted, too."""

    async def main() -> Exit:
        request = trustdomain_pb2.BatchDeleteFederationRelationshipRequest(trust_domains=trust_domains)
        async with server_calls(server_socket) as calls:
            results = (await calls.domains.unary("BatchDeleteFederationRelationship", request)).results
            deleted, errors = outcomes(results)
            bundles, more = await _delete_bundles(calls, deleted, bundle)
        document = {"deleted": deleted, "bundles_deleted": bundles}
        answer(
            output,
            "federation-deleted",
            document,
            lambda: _told_deleted(deleted, len(results), bundle),
            errors=[*errors, *more],
        )
        return Exit.REFUSED if errors or more else Exit.FINE

    run(output, "federation-deleted", main)


def list_relationships(server_socket: ServerSocketOption = None, output: OutputOption = Output.TEXT) -> None:
    """List the trust domains that this one federates with, and how old their bundles are."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            found = await every_page(
                lambda token: calls.domains.unary(
                    "ListFederationRelationships",
                    trustdomain_pb2.ListFederationRelationshipsRequest(page_size=PAGE, page_token=token),
                ),
                lambda page: page.federation_relationships,
            )
            states = await _states(calls)
        data = [document(each, states.get(each.trust_domain)) for each in found]
        answer(output, "federations", data, lambda: _show_all(data))
        return Exit.FINE

    run(output, "federations", main)


def show(
    trust_domain: Annotated[str, typer.Argument(metavar="TRUST-DOMAIN")],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show one relationship, and how fetching goes."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            request = trustdomain_pb2.GetFederationRelationshipRequest(trust_domain=trust_domain)
            found = await calls.domains.unary("GetFederationRelationship", request)
            states = await _states(calls)
        data = document(found, states.get(found.trust_domain))
        answer(output, "federation", data, lambda: _show_one(data))
        return Exit.FINE

    run(output, "federation", main)


def refresh(
    trust_domain: Annotated[str, typer.Argument(metavar="TRUST-DOMAIN")],
    server_socket: ServerSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Fetch a trust domain's bundle now, and say how it went."""

    async def main() -> Exit:
        async with server_calls(server_socket) as calls:
            request = trustdomain_pb2.RefreshBundleRequest(trust_domain=trust_domain)
            await calls.domains.unary("RefreshBundle", request)
        data = {"trust_domain": trust_domain}
        answer(output, "federation-refreshed", data, lambda: console.print("Bundle refreshed"))
        return Exit.FINE

    run(output, "federation-refreshed", main)


def _wanted(
    trust_domain: str | None,
    given: tuple[str | None, Profile | None, str | None],
    bundle: tuple[Path | None, FileFormat | None],
    data: Path | None,
) -> list[types_pb2.FederationRelationship]:
    if (trust_domain is None) == (data is None):
        raise USAGE.error("give a trust domain, or relationships in a file (--data)")
    if data is not None:
        return _from_file(data)
    assert trust_domain is not None
    url, profile, endpoint = given
    path, form = bundle
    content = read_file(path) if path is not None else None
    return [_relationship(trust_domain, url, profile.value if profile else None, endpoint, content, form)]


def _relationship(
    trust_domain: str,
    url: str | None,
    profile: str | None,
    endpoint: str | None,
    bundle: bytes | None,
    form: FileFormat | None,
) -> types_pb2.FederationRelationship:
    domain = TrustDomain.parse(trust_domain)
    message = types_pb2.FederationRelationship(trust_domain=str(domain), bundle_endpoint_url=url or "")
    if profile == Profile.HTTPS_SPIFFE.value:
        if not endpoint:
            raise USAGE.error("the profile https_spiffe needs --endpoint-spiffe-id")
        message.https_spiffe.endpoint_spiffe_id = str(SpiffeId.parse(endpoint))
    elif endpoint:
        raise USAGE.error("--endpoint-spiffe-id belongs to the profile https_spiffe")
    elif profile == Profile.HTTPS_WEB.value:
        message.https_web.SetInParent()
    elif profile is not None:
        raise USAGE.error(f"{profile!r} is neither https_spiffe nor https_web")
    if bundle is not None:
        message.trust_domain_bundle.CopyFrom(to_message(parse_bundle(domain, bundle, form)))
    return message


def _from_file(path: Path) -> list[types_pb2.FederationRelationship]:
    """``{"federationRelationships": [...]}``, as SPIRE's command reads it.  Raises: VST9100, and errors of values."""
    try:
        items = parse_object(read_file(path)).get("federationRelationships")
    except ValueError as error:
        raise USAGE.error(f"{path} is not a JSON object: {error}") from error
    if not isinstance(items, list) or not items:
        raise USAGE.error(f"{path} has no list federationRelationships")
    return [_from_item(item, path) for item in items]


def _from_item(item: Any, path: Path) -> types_pb2.FederationRelationship:
    if not isinstance(item, dict) or not item.get("trustDomain"):
        raise USAGE.error(f"a relationship in {path} has no trustDomain")
    if unknown := sorted(item.keys() - _FIELDS.keys()):
        raise USAGE.error(
            f"a relationship in {path} has an unknown {unknown[0]!r}",
            advice=f"Known are: {', '.join(_FIELDS)}.",
        )
    values = {name: item.get(key) for key, name in _FIELDS.items()}
    content: bytes | None = None
    if (bundle := values["bundle"]) is not None:
        content = (bundle if isinstance(bundle, str) else json.dumps(bundle)).encode()
    try:
        form = FileFormat(values["form"]) if values["form"] else None
    except ValueError as error:
        raise USAGE.error(f"the bundle format {values['form']!r} is neither pem nor spiffe") from error
    texts = [values[name] or "" for name in ("trust_domain", "url", "profile", "endpoint")]
    if not all(isinstance(each, str) for each in texts):
        raise USAGE.error(f"a relationship in {path} has a field that is not a text")
    domain, url, profile, endpoint = texts
    return _relationship(domain, url, profile or None, endpoint, content, form)


async def _delete_bundles(
    calls: ServerCalls, trust_domains: list[str], fate: BundleFate
) -> tuple[list[str], list[VestibuleError]]:
    if fate is BundleFate.KEEP or not trust_domains:
        return [], []
    mode = bundle_pb2.BatchDeleteFederatedBundleRequest.Mode.Value(DeletionMode(fate.value).name)
    request = bundle_pb2.BatchDeleteFederatedBundleRequest(trust_domains=trust_domains, mode=mode)
    return outcomes((await calls.bundles.unary("BatchDeleteFederatedBundle", request)).results)


async def _states(calls: ServerCalls) -> dict[str, federation_pb2.RelationshipStatus]:
    request = federation_pb2.GetFederationStatusRequest()
    status = await calls.federation.unary("GetFederationStatus", request)
    return {each.trust_domain: each for each in status.relationships}


def document(
    relationship: types_pb2.FederationRelationship, state: federation_pb2.RelationshipStatus | None
) -> dict[str, Any]:
    """A relationship as the envelope carries it; ``age`` is in seconds, ``None`` for a bundle never fetched."""
    profile = relationship.WhichOneof("bundle_endpoint_profile")
    data: dict[str, Any] = {
        "trust_domain": relationship.trust_domain,
        "bundle_endpoint_url": relationship.bundle_endpoint_url,
        "bundle_endpoint_profile": profile,
        "endpoint_spiffe_id": relationship.https_spiffe.endpoint_spiffe_id or None,
        "authorities": len(relationship.trust_domain_bundle.x509_authorities),
    }
    if state is None:
        return data
    age = max(0, int(time.time()) - state.fetched_at) if state.fetched_at else None
    problem = {"code": state.problem_code, "message": state.problem, "advice": state.advice}
    return data | {
        "sequence": state.sequence if state.has_bundle else None,
        "fetched_at": instant(state.fetched_at),
        "age": age,
        "next_attempt_at": instant(state.next_attempt_at),
        "failures": state.failures,
        "problem": problem if state.problem_code else None,
    }


def _told(output: Output, schema: str, results: Any) -> Exit:
    errors = list(errors_of(results))
    kept = [result.federation_relationship for result in results if result.status.code == 0]
    data = [document(each, None) for each in kept]

    def text() -> None:
        for each in data:
            _show_one(each)
            console.print(f"[dim]How fetching goes: vestibule federation show {each['trust_domain']}[/]")

    answer(output, schema, data, text, errors=errors)
    return Exit.REFUSED if errors else Exit.FINE


def _told_deleted(deleted: list[str], asked: int, fate: BundleFate) -> None:
    console.print(f"Deleted {len(deleted)} of {asked}")
    if deleted and fate is BundleFate.KEEP:
        console.print("[dim]The bundles are kept, and still trusted: vestibule bundle delete ends that.[/]")


def _show_all(data: list[dict[str, Any]]) -> None:
    for each in data:
        _show_one(each)
        console.print()
    console.print(f"Found {len(data)} federation relationship{'' if len(data) == 1 else 's'}")


def _show_one(data: dict[str, Any]) -> None:
    for name, value in data.items():
        if name == "problem" and value is not None:
            console.print(f"{'problem':<24} [red]{escape(value['code'])}[/] {escape(value['message'])}")
            console.print(f"{'  fix':<24} {escape(value['advice'])}")
        elif name == "age" and value is not None:
            console.print(f"{'age of the bundle':<24} {value} s")
        elif value not in (None, ""):
            console.print(f"{name.replace('_', ' '):<24} {escape(str(value))}")
