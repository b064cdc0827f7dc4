"""Connections of TCP: everybody calls every port, which is decided three times."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from tests.differential.callers import CALLERS
from tests.differential.comparison import Result, shown
from tests.differential.envoys import Tls
from tests.differential.naive import Answer, Naive
from tests.differential.policies import samples
from tests.e2e.static_envoy import StaticEnvoy, as_json

from vestibule.envoy import rbac
from vestibule.envoy.ingress import _remembering_the_time
from vestibule.envoy.protos import packed
from vestibule.policy import Call, Engine, PortPolicy, Rule
from vestibule.spiffe import SpiffeId

_ECHO = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"
_PATIENCE = 60.0


def compare_connections(policies: int, seed: int, directory: Path) -> Result:
    """Each caller connects once to a port of each policy."""
    random, result = Random(seed), Result(seed)
    made = [_of_connections(each.policy) for each in samples(policies, random, datetime.now(UTC))]
    with _Envoy(made, directory) as envoy:
        answers = asyncio.run(envoy.ask())
    for number, policy in enumerate(made):
        engine, naive = Engine(policy), Naive(policy, {}, datetime.now(UTC))
        for caller in CALLERS:
            result.requests += 1
            call = Call(caller=caller, port=policy.port, time=datetime.now(UTC))
            decision, expected = engine.decide(call), naive.of_connection(call)
            result.decided[expected.rule.partition("/")[2] or "no rule"] += 1
            said = Answer(decision.allowed, decision.rule or "")
            if said != expected or answers[number, caller] != expected.allowed:
                rules = "\n   ".join(map(shown, (*policy.deny, *policy.emergencies, *policy.allow)))
                wrong = (
                    f"the engine says {said}, Envoy {answers[number, caller]}, not {expected}, of {caller}"
                )
                result.differences.append(f"{wrong}\n   {rules}")
    return result


def _of_connections(policy: PortPolicy) -> PortPolicy:
    """The same, as far as rules about TCP go."""

    def plain(rule: Rule) -> Rule:
        return replace(rule, methods=frozenset(), paths=(), when=None, token=None)

    return replace(
        policy,
        is_http=False,
        deny=tuple(map(plain, policy.deny)),
        allow=tuple(map(plain, policy.allow)),
        emergencies=tuple(each for each in policy.emergencies if not (each.methods or each.paths)),
    )


class _Envoy:
    """A socket for each policy, which says again what it is told."""

    def __init__(self, policies: Sequence[PortPolicy], directory: Path) -> None:
        self._tls = Tls(directory)
        self._sockets = [directory / f"{number}.sock" for number in range(len(policies))]
        listeners = [self._listener(policy, at) for policy, at in zip(policies, self._sockets, strict=True)]
        self._envoy = StaticEnvoy(directory, {"static_resources": {"listeners": listeners}}, self._sockets)

    def __enter__(self) -> _Envoy:
        self._envoy.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._envoy.__exit__(*error)

    async def ask(self) -> dict[tuple[int, SpiffeId], bool]:
        """Whether each caller got an answer, by policy."""
        found: dict[tuple[int, SpiffeId], bool] = {}
        for number, at in enumerate(self._sockets):
            answers = await asyncio.gather(*(_echoes(at, self._tls.context(caller)) for caller in CALLERS))
            found |= {(number, caller): answer for caller, answer in zip(CALLERS, answers, strict=True)}
        return found

    def _listener(self, policy: PortPolicy, at: Path) -> dict[str, Any]:
        decides = listener_components_pb2.Filter(name="rbac", typed_config=packed(rbac.network_rbac(policy)))
        filters = [as_json(_remembering_the_time()), as_json(decides)]
        filters.append({"name": "echo", "typed_config": {"@type": _ECHO}})
        return {
            "name": policy.service,
            "address": {"pipe": {"path": str(at)}},
            "filter_chains": [{"filters": filters, "transport_socket": self._tls.accepting()}],
        }


async def _echoes(at: Path, tls: ssl.SSLContext) -> bool:
    reader, writer = await asyncio.open_unix_connection(str(at), ssl=tls, server_hostname="")
    writer.write(b"x")
    try:
        with suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(_PATIENCE):
                return await reader.read(1) == b"x"
        return False
    finally:
        writer.transport.abort()
