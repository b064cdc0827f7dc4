"""``vestibule sidecar --static FILE --print``: a bootstrap for an Envoy that somebody runs themselves."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vestibule.app.codes import LONE_CREDENTIAL
from vestibule.cli.output import Exit, Output, answer
from vestibule.records import Address, Boundary, Instance

if TYPE_CHECKING:
    from vestibule.intent.lone import Lone


def print_lone(
    file: Path, agent_socket: Path, access_log: str, ca_bundle: Path | None, output: Output
) -> Exit:
    """Raises: VST7320, VST7321, VST7201, VST7331."""
    from vestibule.envoy.lone.printed import LACKS, printed
    from vestibule.envoy.lone.worlds import compiled, world_of
    from vestibule.intent.lone.files import LoneFile
    from vestibule.proxy.host_files import CA_BUNDLES

    lone = LoneFile(file).valid()
    _check_credentials(lone)
    instance = placed(lone)
    world = world_of(lone, instance, datetime.now(UTC))
    found = next((each for each in CA_BUNDLES if each.is_file()), CA_BUNDLES[0])
    document = printed(
        compiled(world, instance),
        lone,
        agent_socket=str(agent_socket),
        access_log=access_log,
        public_authorities=str(ca_bundle.absolute() if ca_bundle else found),
    )
    variables = _variables(lone, instance)
    data = {"bootstrap": document, "environment": variables, "lacks": list(LACKS)}
    answer(
        output, "lone-bootstrap", data, lambda: typer.echo(_text(lone, document, variables, LACKS), nl=False)
    )
    return Exit.FINE


def placed(lone: Lone) -> Instance:
    """Where everything is if nobody asks what is free: what the file leaves open follows the way out, by name."""
    from vestibule.app.lone_views import app_ports, ingress_at, upstream_at, view_of
    from vestibule.envoy.lone.worlds import NO_AGENT
    from vestibule.proxy.layout import EGRESS_PORT

    view, said = view_of(lone), upstream_at(lone)
    way_out = lone.egress_port or EGRESS_PORT
    taken = {*said.values(), way_out}
    free = (each for each in range(way_out + 1, 65536) if each not in taken)
    apps = app_ports(lone, starts_app=False)
    return Instance(
        id=lone.name,
        service=lone.name,
        spiffe_id=lone.identity,
        agent_id=NO_AGENT,
        ingress=ingress_at(lone),
        apps={name: _local(port) for name, port in apps.items()},
        egress=_local(way_out),
        upstreams={each.name: _local(said.get(each.name) or next(free)) for each in view.upstreams},
        boundary=Boundary.TRUST,
    )


def _local(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def _check_credentials(lone: Lone) -> None:
    for each in lone.intent.externals.values():
        if each.credential is not None and each.credential.prefix:
            raise LONE_CREDENTIAL.error(
                f"the credential of {each.name} begins with {each.credential.prefix!r}", where=each.where
            )


def _variables(lone: Lone, instance: Instance) -> dict[str, str]:
    """What the app is to be told."""
    from vestibule.app.lone_views import view_of
    from vestibule.proxy.layout import Layout

    layout = Layout(
        instance_id=instance.id,
        service=lone.name,
        version="v1",
        boundary=Boundary.TRUST,
        directory=Path("/"),
        starts_app=False,
        egress=instance.egress,
        ingress=dict(instance.ingress),
        apps=dict(instance.apps),
        upstreams=dict(instance.upstreams),
    )
    found = layout.environment({}, view_of(lone), Path("/"))
    del found["SPIFFE_ENDPOINT_SOCKET"]
    return dict(sorted(found.items()))


def _text(lone: Lone, document: dict[str, Any], variables: dict[str, str], lacks: tuple[str, ...]) -> str:
    from ruamel.yaml import YAML

    heading = [
        f"# An Envoy beside {lone.name}, as {lone.identity}; made of {lone.file}, version {lone.intent.version}.",
        "# Start it with: envoy -c THIS-FILE --drain-strategy immediate",
        "# It needs Envoy 1.40 or newer, and the right to its agent's socket.",
        "#",
        "# Tell the app:",
        *(f"#   {name}={value}" for name, value in variables.items()),
        "#",
        "# What `vestibule sidecar --static` does, and this does not:",
        *(f"#   - {each}" for each in lacks),
    ]
    made = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump(document, made)
    return "\n".join(heading) + "\n" + made.getvalue()
