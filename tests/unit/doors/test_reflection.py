"""Reflection tells enough for a client without any .proto file to call what is served, and nothing more."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.secret.v3 import sds_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from vestibule.doors.reflection import NAME, VERSIONS, reflection
from vestibule.net.grpc import Servable, serve
from vestibule.wire.gen.spiffe import workload_pb2

WORKLOAD = "SpiffeWorkloadAPI"
SDS = "envoy.service.secret.v3.SecretDiscoveryService"
SERVED = [
    serve(workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"], object()),
    serve(sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"], object()),
]


class Conversation:
    """A stream of questions, prepared, and the answers that came."""

    def __init__(self, *questions: Any) -> None:
        self.questions = list(questions)
        self.answers: list[Any] = []

    async def recv_message(self) -> Any:
        return self.questions.pop(0) if self.questions else None

    async def send_message(self, message: Any) -> None:
        self.answers.append(message)


async def ask(wire: Any, *questions: dict[str, Any], served: list[Servable] | None = None) -> list[Any]:
    [service] = [
        each
        for each in reflection(SERVED if served is None else served)
        if each.descriptor is wire.DESCRIPTOR.services_by_name[NAME]
    ]
    [handler] = service.__mapping__().values()
    stream = Conversation(*(wire.ServerReflectionRequest(**each) for each in questions))
    await handler.func(stream)
    return stream.answers


@pytest.fixture(params=VERSIONS, ids=lambda wire: str(wire.DESCRIPTOR.package))
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_what_is_served_is_listed_and_reflection_itself_in_both_versions(wire: Any) -> None:
    [answer] = await ask(wire, {"list_services": "*"})
    assert [each.name for each in answer.list_services_response.service] == [
        WORKLOAD,
        SDS,
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


@pytest.mark.parametrize("symbol", [WORKLOAD, SDS])
async def test_a_client_can_build_the_types_of_a_service_from_the_answer(wire: Any, symbol: str) -> None:
    [answer] = await ask(wire, {"file_containing_symbol": symbol})
    pool = DescriptorPool()
    files = {
        each.name: each
        for each in map(
            descriptor_pb2.FileDescriptorProto.FromString,
            answer.file_descriptor_response.file_descriptor_proto,
        )
    }
    add_all(pool, files)
    method = pool.FindServiceByName(symbol).methods[0]
    message = GetMessageClass(method.output_type)()
    message.ParseFromString(b"")
    first = descriptor_pb2.FileDescriptorProto.FromString(
        answer.file_descriptor_response.file_descriptor_proto[0]
    )
    assert symbol.rpartition(".")[2] in [service.name for service in first.service]


def add_all(pool: DescriptorPool, files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """Each file after what it needs; the answer must hold all of it."""
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added:
            return
        added.add(name)
        for needed in files[name].dependency:
            add(needed)
        pool.Add(files[name])

    for name in files:
        add(name)


@pytest.mark.parametrize(
    "symbol",
    [
        f"{WORKLOAD}.FetchX509SVID",
        "X509SVIDResponse",
        "X509SVIDResponse.svids",
        "X509SVIDResponse.FederatedBundlesEntry",
        "grpc.reflection.v1.ServerReflectionRequest.message_request",
        "google.protobuf.NullValue",
        "google.protobuf.NULL_VALUE",
        ".X509SVIDResponse",
    ],
)
async def test_every_kind_of_symbol_has_its_file(wire: Any, symbol: str) -> None:
    [answer] = await ask(wire, {"file_containing_symbol": symbol})
    assert answer.WhichOneof("message_response") == "file_descriptor_response"


async def test_a_file_that_a_stream_has_had_is_not_sent_again_unless_asked_for(wire: Any) -> None:
    first, second, third = await ask(
        wire,
        {"file_containing_symbol": WORKLOAD},
        {"file_containing_symbol": WORKLOAD},
        {"file_by_filename": "google/protobuf/struct.proto"},
    )
    assert len(first.file_descriptor_response.file_descriptor_proto) > 1
    assert len(second.file_descriptor_response.file_descriptor_proto) == 1
    assert len(third.file_descriptor_response.file_descriptor_proto) == 1


async def test_extensions_are_found_by_the_message_they_extend(wire: Any) -> None:
    numbers, unknown = await ask(
        wire,
        {"all_extension_numbers_of_type": "google.protobuf.MessageOptions"},
        {"all_extension_numbers_of_type": "no.Such"},
    )
    found = list(numbers.all_extension_numbers_response.extension_number)
    assert found == sorted(found)
    assert found
    assert unknown.error_response.error_code == 5
    [answer] = await ask(
        wire,
        {
            "file_containing_extension": {
                "containing_type": "google.protobuf.MessageOptions",
                "extension_number": found[0],
            }
        },
    )
    assert answer.WhichOneof("message_response") == "file_descriptor_response"


@pytest.mark.parametrize(
    "question",
    [
        {"file_containing_symbol": "envoy.config.listener.v3.Listener"},
        {"file_containing_symbol": "spire.api.server.agent.v1.Agent"},
        {"file_by_filename": "spire/agent.proto"},
        {"file_containing_extension": {"containing_type": "google.protobuf.MessageOptions"}},
    ],
)
async def test_what_is_loaded_but_not_served_is_not_told(wire: Any, question: dict[str, Any]) -> None:
    refused, still = await ask(wire, question, {"list_services": ""})
    assert refused.error_response.error_code == 5
    assert still.WhichOneof("message_response") == "list_services_response"


async def test_a_question_about_nothing_is_answered_with_an_error_and_the_question(wire: Any) -> None:
    [answer] = await ask(wire, {"host": "here"})
    assert answer.error_response.error_code == 3
    assert (answer.valid_host, answer.original_request.host) == ("here", "here")
