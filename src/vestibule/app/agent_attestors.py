"""The agent's attestors put together: of workloads, and the proof of its own node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from vestibule.app.attestor_choices import (
    PROOF_PLUGINS,
    WORKLOAD_PLUGINS,
    Choice,
    choices_of,
    no_name_twice,
    no_settings,
    parse_choice,
    plugin,
    read_attestors,
    settings_of,
)
from vestibule.app.codes import INVALID_SETTING
from vestibule.attest.node import NodeProof
from vestibule.attest.workload.ports import WorkloadAttestor
from vestibule.attest.workload.supervised import SupervisedAttestor, Vouched
from vestibule.attest.workload.unix import UnixAttestor, UnixSettings
from vestibule.records import Address

DEFAULT: Final = (Choice(name="unix"), Choice(name="supervised"))
JOIN_TOKEN: Final = Choice(name="join_token")
MAX_PODS_BYTES: Final = 64 * 1024 * 1024
MAX_TOKEN_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the operator wants."""

    workload: tuple[Choice, ...] = DEFAULT
    node: Choice = JOIN_TOKEN


def chosen_attestors(file: Path | None, workload: Sequence[str], node: str = "") -> Chosen:
    """What was asked for on the command line, else in a file, else the default.  Raises: VST9110."""
    written = {} if file is None else read_attestors(file, ("workload_attestors", "node_attestor"))
    proofs = (parse_choice(node),) if node else choices_of(written.get("node_attestor") or (JOIN_TOKEN,))
    if len(proofs) != 1:
        raise INVALID_SETTING.error("an agent attests its node in one way")
    return Chosen(
        workload=tuple(map(parse_choice, workload))
        or choices_of(written.get("workload_attestors") or ())
        or DEFAULT,
        node=proofs[0],
    )


def workload_attestors(choices: Sequence[Choice], vouched: Vouched) -> tuple[WorkloadAttestor, ...]:
    """The chosen attestors.  ``supervised`` is always among them: without it no sidecar has an identity.

    Raises: VST9110.
    """
    no_name_twice(choices)
    found: list[WorkloadAttestor] = [SupervisedAttestor(vouched)]
    for choice in choices:
        if choice.name == "supervised":
            no_settings(choice)
        elif maker := _MAKERS.get(choice.name):
            found.append(maker(choice))
        else:
            found.append(plugin(WORKLOAD_PLUGINS, choice, (*_MAKERS, "supervised"))(choice.values))
    return tuple(found)


def _unix(choice: Choice) -> WorkloadAttestor:
    return UnixAttestor(executables=settings_of(UnixSettings, choice).executables)


# What follows imports late: an agent pays at its start only for what it uses.


def _systemd(choice: Choice) -> WorkloadAttestor:
    from vestibule.attest.workload.systemd import SystemdAttestor, SystemdSettings
    from vestibule.calls.systemd import Systemd

    return SystemdAttestor(Systemd(bus=settings_of(SystemdSettings, choice).bus).unit_of)


def _docker(choice: Choice) -> WorkloadAttestor:
    from vestibule.attest.workload.docker import DockerAttestor, DockerSettings
    from vestibule.calls.http import HttpServer

    settings = settings_of(DockerSettings, choice)
    return DockerAttestor(settings, lambda socket: HttpServer(unix=socket))


def _k8s(choice: Choice) -> WorkloadAttestor:
    from vestibule.attest.workload.k8s import K8sAttestor, K8sSettings
    from vestibule.calls.http import HttpServer
    from vestibule.calls.http.tls import client_context

    settings = settings_of(K8sSettings, choice)
    where = host_and_port(choice, settings.kubelet)
    context = partial(
        client_context,
        settings.ca_file,
        verify=not settings.skip_verification,
        certificate_file=settings.certificate_file,
        key_file=settings.key_file,
    )
    kubelet = HttpServer(
        host=where.host,
        port=where.port,
        tls=None if settings.plain else context,
        name=settings.server_name,
        limit=MAX_PODS_BYTES,
    )
    # Never in clear text.  With skip_verification the operator accepts that whoever answers gets the token.
    shows = settings.token_file is not None and not settings.plain
    return K8sAttestor(kubelet, partial(read_token, settings.token_file) if shows else lambda: "")


def host_and_port(choice: Choice, text: str) -> Address:
    """Raises: VST9110 unless it is HOST:PORT."""
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise INVALID_SETTING.error(f"attestor {choice.name}: {error}") from error
    if address.path:
        raise INVALID_SETTING.error(f"attestor {choice.name}: {text!r} is not HOST:PORT")
    return address


def read_token(path: Path | None) -> str:
    """A bearer token, as it stands in its file now.  Raises: OSError, ValueError."""
    if path is None:
        return ""
    with path.open("rb") as file:
        token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    if not token or not token.isprintable() or " " in token:
        raise ValueError(f"{path} holds no token")
    return token


_MAKERS: Final[Mapping[str, Callable[[Choice], Any]]] = {
    "unix": _unix,
    "systemd": _systemd,
    "docker": _docker,
    "k8s": _k8s,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSource:
    """Makes the proof for each attestation; with ``reattests`` the agent attests instead of renewing."""

    make: Callable[[], NodeProof]
    reattests: bool = False


def proof_source(choice: Choice, join_token: Callable[[], NodeProof]) -> ProofSource:
    """The agent's way to prove its node.  Raises: VST9110."""
    if choice.name == JOIN_TOKEN.name:
        no_settings(choice)
        return ProofSource(make=join_token)
    if maker := _PROOFS.get(choice.name):
        return maker(choice)
    made = plugin(PROOF_PLUGINS, choice, (JOIN_TOKEN.name, *_PROOFS))(choice.values)
    return ProofSource(make=made.make, reattests=bool(made.reattests))


def _x509pop(choice: Choice) -> ProofSource:
    from vestibule.attest.node.x509pop import X509PopProof, X509PopProofSettings

    settings = settings_of(X509PopProofSettings, choice)
    return ProofSource(make=lambda: X509PopProof(settings), reattests=True)


def _http_challenge(choice: Choice) -> ProofSource:
    from vestibule.attest.node.http_challenge import HttpChallengeProof, HttpChallengeProofSettings

    settings = settings_of(HttpChallengeProofSettings, choice)
    return ProofSource(make=lambda: HttpChallengeProof(settings), reattests=settings.reattest)


def _k8s_psat(choice: Choice) -> ProofSource:
    from vestibule.attest.node.k8s_psat import K8sPsatProof, K8sPsatProofSettings

    settings = settings_of(K8sPsatProofSettings, choice)
    return ProofSource(make=lambda: K8sPsatProof(settings), reattests=True)


def _gcp_iit(choice: Choice) -> ProofSource:
    from vestibule.attest.node.gcp_iit import GcpIitProof, GcpIitProofSettings
    from vestibule.calls.http import HttpServer

    settings = settings_of(GcpIitProofSettings, choice)
    where = host_and_port(choice, settings.metadata)
    return ProofSource(make=lambda: GcpIitProof(settings, HttpServer(host=where.host, port=where.port)))


def _aws_iid(choice: Choice) -> ProofSource:
    from vestibule.attest.node.aws_iid import AwsIidProof, AwsIidProofSettings
    from vestibule.calls.http import HttpServer

    where = host_and_port(choice, settings_of(AwsIidProofSettings, choice).metadata)
    return ProofSource(make=lambda: AwsIidProof(HttpServer(host=where.host, port=where.port)))


_PROOFS: Final[Mapping[str, Callable[[Choice], ProofSource]]] = {
    "x509pop": _x509pop,
    "http_challenge": _http_challenge,
    "k8s_psat": _k8s_psat,
    "gcp_iit": _gcp_iit,
    "aws_iid": _aws_iid,
}
