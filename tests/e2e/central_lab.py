"""A mesh whose callee asks a decision service, which can be made slow, silent or a liar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2 as pb
from tests.e2e.mesh_lab import Proxy

from vestibule.doors.checks import Answering
from vestibule.doors.ext_authz import MAX_MESSAGE, METHOD, AuthorizationDoor
from vestibule.net.grpc_server import Connection, Fast, GrpcServer
from vestibule.policy import Condition, Effect, Rule
from vestibule.policy.deciders import Decider, Engines
from vestibule.xds.resources import DECISIONS


class AskingProxy(Proxy):
    """An Envoy whose agent decides, by the policy of its own snapshot."""

    def server(self) -> GrpcServer:
        self.engines = Engines("example.org")
        self.asked: list[pb.CheckRequest] = []
        self.say: Callable[[bytes], bytes] | None = None
        self.forgetful = False
        self.answering = Answering(self.find, explains=False)
        self.askers: list[Any] = []
        fast = Fast(path=METHOD, answer_of=self.answer_of, max_message=MAX_MESSAGE)
        self.door = AuthorizationDoor(lambda _: self.answering)
        return GrpcServer([*self.services(), self.door.servable()], fast=fast)

    def find(self, _service: str, port: str) -> Decider | None:
        resource = None if self.forgetful else self.snapshot().of_type(DECISIONS).get(port)
        return None if resource is None else self.engines.of(resource.version, resource.body)

    def answer_of(self, connection: Connection) -> Callable[[bytes], bytes]:
        self.askers.append(connection)
        return self.answer

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The service reads nothing."""
        transports = [each.connection._transport for each in self.askers]
        transports = [each for each in transports if not each.is_closing()]
        for each in transports:
            each.pause_reading()
        try:
            yield
        finally:
            for each in transports:
                each.resume_reading()

    def answer(self, data: bytes) -> bytes:
        self.asked.append(pb.CheckRequest.FromString(data))
        return self.answering.answer(data) if self.say is None else self.say(data)


def when(text: str, given: Rule) -> Rule:
    return replace(given, when=Condition.parse(text))


def denying(given: Rule) -> Rule:
    return replace(given, effect=Effect.DENY)
