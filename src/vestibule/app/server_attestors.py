"""The server's node attestors put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from vestibule.app.agent_attestors import host_and_port, read_token
from vestibule.app.attestor_choices import (
    NODE_PLUGINS,
    Choice,
    invalid,
    no_name_twice,
    no_settings,
    plugin,
    settings_of,
)
from vestibule.attest.node import NodeAttestor
from vestibule.attest.node.join_token import JoinTokenAttestor, Tokens
from vestibule.errors import VestibuleError
from vestibule.spiffe import TrustDomain

CHALLENGE_BYTES: Final = 64


def node_attestors(
    choices: Sequence[Choice], trust_domain: TrustDomain, tokens: Tokens
) -> tuple[NodeAttestor, ...]:
    """The chosen attestors.  Raises: VST9110."""
    no_name_twice(choices)
    return tuple(_made(choice, trust_domain, tokens) for choice in choices)


def _made(choice: Choice, trust_domain: TrustDomain, tokens: Tokens) -> NodeAttestor:
    if choice.name == "join_token":
        no_settings(choice)
        return JoinTokenAttestor(tokens, trust_domain)
    maker = _MAKERS.get(choice.name)
    try:
        if maker is not None:
            return maker(choice, trust_domain)
        made: NodeAttestor = plugin(NODE_PLUGINS, choice, ("join_token", *_MAKERS))(
            choice.values, trust_domain
        )
    except VestibuleError as error:
        raise invalid(choice, error) from error
    return made


# What follows imports late: a server pays at its start only for what it uses.


def _x509pop(choice: Choice, trust_domain: TrustDomain) -> NodeAttestor:
    from vestibule.attest.node.x509pop import X509PopAttestor, X509PopSettings

    return X509PopAttestor(settings_of(X509PopSettings, choice), trust_domain)


def _http_challenge(choice: Choice, trust_domain: TrustDomain) -> NodeAttestor:
    from vestibule.attest.node.http_challenge import HttpChallengeAttestor, HttpChallengeSettings
    from vestibule.calls.http import Answer, HttpServer, is_foreign_host

    settings = settings_of(HttpChallengeSettings, choice)

    async def fetch(host: str, port: int, target: str) -> Answer:
        permit = (lambda _: True) if settings.allow_loopback else is_foreign_host
        return await HttpServer(host=host, port=port, permit=permit, limit=CHALLENGE_BYTES)("GET", target)

    return HttpChallengeAttestor(settings, trust_domain, fetch)


def _k8s_psat(choice: Choice, trust_domain: TrustDomain) -> NodeAttestor:
    from vestibule.attest.node.k8s_psat import Cluster, K8sPsatAttestor, K8sPsatSettings
    from vestibule.calls.http import HttpServer
    from vestibule.calls.http.tls import client_context

    clusters = {}
    for name, settings in settings_of(K8sPsatSettings, choice).clusters.items():
        where = host_and_port(choice, settings.api_server)
        api = HttpServer(
            host=where.host,
            port=where.port,
            tls=partial(client_context, settings.ca_file),
            name=settings.server_name,
        )
        clusters[name] = Cluster(settings=settings, api=api, token=partial(read_token, settings.token_file))
    return K8sPsatAttestor(clusters, trust_domain)


def _gcp_iit(choice: Choice, trust_domain: TrustDomain) -> NodeAttestor:
    from vestibule.attest.node.codes import VERIFIER_UNAVAILABLE
    from vestibule.attest.node.gcp_iit import GcpIitAttestor, GcpIitSettings
    from vestibule.calls.http import HttpServer
    from vestibule.calls.http.tls import client_context

    settings = settings_of(GcpIitSettings, choice)

    async def keys() -> bytes:
        if settings.keys_file is not None:
            try:
                return await asyncio.to_thread(settings.keys_file.read_bytes)
            except OSError as error:
                raise VERIFIER_UNAVAILABLE.error(f"{settings.keys_file}: {error.strerror}") from error
        answer = await HttpServer(host=settings.keys_host, port=443, tls=client_context)(
            "GET", settings.keys_path
        )
        if answer.status != 200:
            raise VERIFIER_UNAVAILABLE.error(f"{settings.keys_host} answers {answer.status} for its keys")
        return answer.body

    return GcpIitAttestor(settings, trust_domain, keys)


def _aws_iid(choice: Choice, trust_domain: TrustDomain) -> NodeAttestor:
    from vestibule.attest.node.aws_iid import AwsIidAttestor, AwsIidSettings

    return AwsIidAttestor(settings_of(AwsIidSettings, choice), trust_domain)


_MAKERS: Final[Mapping[str, Callable[[Choice, TrustDomain], NodeAttestor]]] = {
    "x509pop": _x509pop,
    "http_challenge": _http_challenge,
    "k8s_psat": _k8s_psat,
    "gcp_iit": _gcp_iit,
    "aws_iid": _aws_iid,
}
