"""Real Envoys with what the compiler made of many policies: one Envoy, a port for each policy."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from tests.differential.callers import ELSEWHERE
from tests.differential.naive import TOKEN_REFUSED, Answer
from tests.differential.requests import Ask
from tests.differential.tokens import issuers
from tests.e2e.mesh_lab import client_tls
from tests.e2e.static_envoy import StaticEnvoy, as_json

from vestibule.doors.checks import Answering
from vestibule.doors.ext_authz import MAX_MESSAGE, METHOD, AuthorizationDoor
from vestibule.envoy import central as central_calls
from vestibule.envoy import frequent, http, rbac, tokens
from vestibule.envoy.bootstrap import bootstrap
from vestibule.envoy.central import both, decided_where
from vestibule.envoy.names import ASKED, DECIDED, DECISIONS_CLUSTER
from vestibule.envoy.protos import packed
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.intent.model import Decide
from vestibule.net.grpc_server import Fast, GrpcServer
from vestibule.policy import Engine, PortPolicy
from vestibule.policy.deciders import Decider
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority

_TYPES: Final = "type.googleapis.com/envoy.extensions"
_DENIED: Final = "rbac_access_denied_matched_policy["
_NUMBER: Final = "x-number"
_PATIENCE: Final = 60.0
"""Seconds in which a decision service answers in any case."""
_AT_ONCE: Final = 4
"""Connections per caller and policy."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an Envoy made of a request.  Both are None if it was no HTTP that Envoy takes."""

    status: int
    answer: Answer | None
    shadow: Answer | None
    unsaid: bool = False
    """Whether a shadow rule may be meant that this proxy cannot judge, so that it tells nothing of shadow."""


class Tls:
    """What Envoys and their callers show each other."""

    def __init__(self, directory: Path) -> None:
        self._authority = TestAuthority("example.org")
        self._other = TestAuthority(ELSEWHERE)
        self._directory = directory
        self._contexts: dict[SpiffeId, ssl.SSLContext] = {}

    def context(self, caller: SpiffeId) -> ssl.SSLContext:
        """For a connection of a caller's."""
        if caller not in self._contexts:
            by = self._other if caller.trust_domain.name == ELSEWHERE else self._authority
            self._contexts[caller] = client_tls(by.svid(caller.path), self._directory)
        return self._contexts[caller]

    def accepting(self) -> dict[str, Any]:
        """For a listener."""
        own = certificate_secret("own", self._authority.svid("/ns/prod/sa/app"))
        roots = validation_secret("roots", [self._authority.bundle, self._other.bundle])
        secret = _secret(own)["tls_certificate"]
        common = {
            "tls_certificates": [secret],
            "validation_context": _secret(roots)["validation_context"],
        }
        return {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": common,
                "require_client_certificate": True,
            },
        }


class Envoys:
    """``with`` it."""

    def __init__(self, policies: Sequence[PortPolicy], directory: Path, *, central: bool = False) -> None:
        self._central = central
        self._asked = directory / "decisions.sock"
        self._engines = {policy.service: Decider(Engine(policy), "example.org") for policy in policies}
        self._tls = Tls(directory)
        self._log = directory / "access.log"
        # Sockets in a directory of our own: two Envoys may share a port, and nobody would notice.
        self._sockets = [directory / f"{number}.sock" for number in range(len(policies))]
        listeners = [self._listener(policy, at) for policy, at in zip(policies, self._sockets, strict=True)]
        clusters = [_cluster(self._asked)] if central else []
        resources = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        self._envoy = StaticEnvoy(directory, resources, self._sockets)

    def __enter__(self) -> Envoys:
        self._envoy.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._envoy.__exit__(*error)

    async def ask(self, asked: Sequence[Sequence[Ask]]) -> dict[tuple[int, int], int]:
        """Send everything, by policy; the statuses, by policy and place."""
        if not self._central:
            return await self._ask_everything(asked)
        answering = Answering(lambda service, _: self._engines.get(service), explains=False)
        fast = Fast(path=METHOD, answer_of=lambda _: answering.answer, max_message=MAX_MESSAGE)
        server = GrpcServer([AuthorizationDoor(lambda _: answering).servable()], fast=fast)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self._asked))
        sock.listen()
        await server.listen(sock)
        try:
            return await self._ask_everything(asked)
        finally:
            await server.close()

    async def _ask_everything(self, asked: Sequence[Sequence[Ask]]) -> dict[tuple[int, int], int]:
        statuses: dict[tuple[int, int], int] = {}
        for policy, mine in enumerate(asked):
            queues: defaultdict[SpiffeId, list[int]] = defaultdict(list)
            for number, each in enumerate(mine):
                queues[each.caller].append(number)
            async with asyncio.TaskGroup() as tasks:
                for caller, numbers in queues.items():
                    for start in range(_AT_ONCE):
                        some = numbers[start::_AT_ONCE]
                        tasks.create_task(self._ask_all(policy, caller, some, mine, statuses))
        return statuses

    async def _ask_all(
        self,
        policy: int,
        caller: SpiffeId,
        numbers: Sequence[int],
        asked: Sequence[Ask],
        statuses: dict[tuple[int, int], int],
    ) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            if connection is None:
                at, tls = str(self._sockets[policy]), self._tls.context(caller)
                connection = await asyncio.open_unix_connection(at, ssl=tls, server_hostname="")
            status, lasts = await _ask(*connection, asked[number], f"{policy}.{number}")
            statuses[policy, number] = status
            if not lasts:
                connection[1].transport.abort()
                connection = None
        if connection is not None:
            connection[1].transport.abort()

    def told(self) -> dict[tuple[int, int], Told]:
        """What the log says, once the Envoys have stopped, by policy and place."""
        found = {}
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            said = json.loads(line)
            if said["number"]:
                policy, number = map(int, said["number"].split("."))
                found[policy, number] = _told(said)
        return found

    def _listener(self, policy: PortPolicy, at: Path) -> dict[str, Any]:
        manager = http.ingress(
            "policy", policy.service, "policy", timedelta(hours=1), AccessLog(name="none"), tell_rule=True
        )
        answered = as_json(_logging(manager, self._log))
        meant = {"service": policy.service, "port": policy.port}
        answered["route_config"] = {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{**_EVERYTHING, "metadata": {"filter_metadata": {"vestibule": meant}}}],
                }
            ]
        }
        answered["http_filters"] = [
            *(
                {"name": name, "typed_config": as_json(packed(each))}
                for name, each in filters_of(policy, central=self._central)
            ),
            {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
        ]
        kind = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        network = {"name": "http", "typed_config": {"@type": kind, **answered}}
        return {
            "name": policy.service,
            "address": {"pipe": {"path": str(at)}},
            "filter_chains": [{"filters": [network], "transport_socket": self._tls.accepting()}],
        }


_EVERYTHING: Final = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}


def _cluster(at: Path) -> dict[str, Any]:
    config = bootstrap(node_id="n", cluster="c", agent_socket=str(at), admin_socket="/none")
    return next(each for each in config["static_resources"]["clusters"] if each["name"] == DECISIONS_CLUSTER)


def filters_of(policy: PortPolicy, *, central: bool = False) -> list[tuple[str, Any]]:
    """What decides, in the order of a listener's filters; ``central``: a decision service as far as one may."""
    known = issuers()
    with _order_of(policy):
        decided = rbac.http_rbac(policy, known)
        if central:
            asked = decided_where(policy, Decide.CENTRAL)
            assert asked is not None
            # The service runs among those who ask, and on a busy machine its answers may take long.
            with mock.patch.object(central_calls, "TIMEOUT", _PATIENCE):
                decided = both(rbac.http_rbac(asked.local, known), policy)
    verified = tokens.authentication(policy, known)
    return [
        *([("token", verified)] if verified is not None else []),
        ("policy", decided),
    ]


@contextmanager
def _order_of(policy: PortPolicy) -> Iterator[None]:
    """Every second policy is compiled as if each of its callers were named in very many places."""
    with ExitStack() as changed:
        if policy.service.endswith(tuple("13579")):
            changed.enter_context(mock.patch.multiple(frequent, MANY_PLACES=1, MOST_COPIED=math.inf))
        yield


def _secret(body: bytes) -> dict[str, Any]:
    return as_json(secret_pb2.Secret.FromString(body))


def _logging(manager: HttpConnectionManager, file: Path) -> HttpConnectionManager:
    """As compiled, but a log says what decided: what a denial's metadata are is known only after the answer."""
    del manager.access_log[:], manager.http_filters[:]
    manager.ClearField("rds")
    rbac_said = "%DYNAMIC_METADATA(envoy.filters.http.rbac:{}{})%"
    said = {
        "number": f"%REQ({_NUMBER})%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "rule": rbac_said.format("", "enforced_effective_policy_id"),
        "shadow": rbac_said.format(rbac.SHADOW_PREFIX, "shadow_engine_result"),
        "central": f"%DYNAMIC_METADATA({DECIDED}:rule)%",
        "central_shadow": f"%DYNAMIC_METADATA({DECIDED}:shadow_verdict)%",
        "central_shadow_rule": f"%DYNAMIC_METADATA({DECIDED}:shadow_rule)%",
        "shadow_rule": rbac_said.format(rbac.SHADOW_PREFIX, "shadow_effective_policy_id"),
    }
    config = file_pb2.FileAccessLog(path=str(file))
    config.log_format.json_format.update(said)
    manager.access_log.add(name="log", typed_config=packed(config))
    return manager


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask, number: str
) -> tuple[int, bool]:
    lines = [f"{ask.method} {ask.path} HTTP/1.1", "host: app", f"{_NUMBER}: {number}"]
    lines += [f"{name}: {value}" for name, value in ask.headers.items()]
    lines += [f"authorization: Bearer {ask.token.text}"] if ask.token is not None else []
    lines += [f"content-length: {len(ask.body)}"] if ask.body else []
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + ask.body)
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return int(first.split()[1]), headers.get("connection") != "close"


def _told(said: Mapping[str, Any]) -> Told:
    status, details = int(said["status"]), str(said["details"])
    if status == 200:
        answer = Answer(True, (said["central"] if said["rule"] == ASKED else said["rule"]) or "")
    elif details == "ext_authz_denied" and status == 403:
        answer = Answer(False, said["central"] or "")
    elif details.startswith(_DENIED):
        name = details.removeprefix(_DENIED).removesuffix("]")
        answer = Answer(False, "" if name == "none" else name)
    elif details.startswith(tokens.REFUSED_DETAILS):
        return Told(status, Answer(False, TOKEN_REFUSED), None)
    else:
        return Told(status, None, None)
    if said["central_shadow"]:
        shadow = Answer(said["central_shadow"] == "allowed", said["central_shadow_rule"] or "")
        return Told(status, answer, shadow)
    if not said["shadow"]:
        return Told(status, answer, None)
    if said["shadow_rule"] == ASKED:
        return Told(status, answer, None, unsaid=True)
    return Told(status, answer, Answer(said["shadow"] == "allowed", said["shadow_rule"] or ""))
