"""gRPC server reflection: what is served here, for tools such as grpcurl (SPIFFE Workload Endpoint, section 7).

The types of our own APIs live in a private descriptor pool, Envoy's in the process's; told is what the served
services need, of either pool, and nothing else that happens to be loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from grpclib.const import Status

from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.grpc import reflection_v1_pb2, reflection_v1alpha_pb2

VERSIONS: Final = (reflection_v1_pb2, reflection_v1alpha_pb2)
NAME: Final = "ServerReflection"


class Schema:
    """The files behind a set of services, by what is in them.  Put together at the first question."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self.services = tuple(sorted(services, key=lambda each: each.full_name))
        self._files: dict[str, FileDescriptor] = {}
        self._symbols: dict[str, FileDescriptor] = {}
        self._extensions: dict[str, dict[int, FileDescriptor]] = {}

    def file(self, name: str) -> FileDescriptor | None:
        """The file of this name."""
        self._read()
        return self._files.get(name)

    def file_of_symbol(self, symbol: str) -> FileDescriptor | None:
        """The file that defines a service, method, message, field, enum, value or extension."""
        self._read()
        return self._symbols.get(symbol.removeprefix("."))

    def extensions_of(self, message: str) -> dict[int, FileDescriptor] | None:
        """The files of a message's extensions by number; None for a message that is not known."""
        self._read()
        message = message.removeprefix(".")
        return self._extensions.get(message, {}) if message in self._symbols else None

    def _read(self) -> None:
        if self._files:
            return
        for service in self.services:
            self._take(service.file)

    def _take(self, file: FileDescriptor) -> None:
        # Both pools have their own copy of Google's files: which of the two is told makes no difference.
        if file.name in self._files:
            return
        self._files[file.name] = file
        definition = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(definition)
        for symbol in _symbols(definition):
            self._symbols.setdefault(symbol, file)
        for extension in _extensions(definition):
            by_number = self._extensions.setdefault(extension.extendee.removeprefix("."), {})
            by_number.setdefault(extension.number, file)
        for needed in file.dependencies:
            self._take(needed)


def reflection(services: Iterable[Servable]) -> list[Servable]:
    """Reflection, in both versions, over these services and itself."""
    described = [each.descriptor for each in services if each.descriptor is not None]
    own = [version.DESCRIPTOR.services_by_name[NAME] for version in VERSIONS]
    schema = Schema([*described, *own])
    return [serve(service, _Door(schema, version)) for service, version in zip(own, VERSIONS, strict=True)]


class _Door:
    """One version's service; the versions differ in the names of their messages only."""

    def __init__(self, schema: Schema, wire: Any) -> None:
        self._schema = schema
        self._wire = wire

    async def server_reflection_info(self, stream: Stream) -> None:
        """ServerReflectionInfo: an answer for each question; an unknown name ends nothing."""
        sent: set[str] = set()
        while (request := await stream.recv_message()) is not None:
            response = self._wire.ServerReflectionResponse(valid_host=request.host, original_request=request)
            self._answer(request, response, sent)
            await stream.send_message(response)

    def _answer(self, request: Any, response: Any, sent: set[str]) -> None:
        schema = self._schema
        match request.WhichOneof("message_request"):
            case "list_services":
                for service in schema.services:
                    response.list_services_response.service.add(name=service.full_name)
            case "file_by_filename":
                self._tell_file(response, schema.file(request.file_by_filename), sent)
            case "file_containing_symbol":
                self._tell_file(response, schema.file_of_symbol(request.file_containing_symbol), sent)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                files = schema.extensions_of(wanted.containing_type) or {}
                self._tell_file(response, files.get(wanted.extension_number), sent)
            case "all_extension_numbers_of_type":
                self._tell_numbers(response, request.all_extension_numbers_of_type)
            case _:
                self._refuse(response, Status.INVALID_ARGUMENT, "the request asks nothing")

    def _tell_file(self, response: Any, file: FileDescriptor | None, sent: set[str]) -> None:
        """The file and what it needs, less what this stream has had; the file itself in any case."""
        if file is None:
            self._refuse(response, Status.NOT_FOUND, "nothing of this name is served here")
            return
        answer = response.file_descriptor_response
        answer.file_descriptor_proto.append(file.serialized_pb)
        sent.add(file.name)
        for needed in _needed(file, sent):
            answer.file_descriptor_proto.append(needed.serialized_pb)

    def _tell_numbers(self, response: Any, message: str) -> None:
        numbers = self._schema.extensions_of(message)
        if numbers is None:
            self._refuse(response, Status.NOT_FOUND, "nothing of this name is served here")
            return
        response.all_extension_numbers_response.base_type_name = message
        response.all_extension_numbers_response.extension_number.extend(sorted(numbers))

    def _refuse(self, response: Any, status: Status, message: str) -> None:
        response.error_response.error_code = status.value
        response.error_response.error_message = message


def _needed(file: FileDescriptor, sent: set[str]) -> Iterator[FileDescriptor]:
    for needed in file.dependencies:
        if needed.name not in sent:
            sent.add(needed.name)
            yield needed
            yield from _needed(needed, sent)


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    prefix = f"{file.package}." if file.package else ""
    for service in file.service:
        yield f"{prefix}{service.name}"
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)
    yield from (f"{prefix}{extension.name}" for extension in file.extension)
    yield from _enum_symbols(file.enum_type, prefix)
    for message in file.message_type:
        yield from _message_symbols(message, prefix)


def _message_symbols(message: descriptor_pb2.DescriptorProto, prefix: str) -> Iterator[str]:
    name = f"{prefix}{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in (*message.field, *message.extension))
    yield from (f"{name}.{choice.name}" for choice in message.oneof_decl)
    yield from _enum_symbols(message.enum_type, f"{name}.")
    for nested in message.nested_type:
        yield from _message_symbols(nested, f"{name}.")


def _enum_symbols(enums: Iterable[descriptor_pb2.EnumDescriptorProto], prefix: str) -> Iterator[str]:
    for enum in enums:
        yield f"{prefix}{enum.name}"
        # The values of an enum are its siblings, as in C++.
        yield from (f"{prefix}{value.name}" for value in enum.value)


def _extensions(
    file: descriptor_pb2.FileDescriptorProto,
) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    yield from file.extension
    for message in file.message_type:
        yield from _nested_extensions(message)


def _nested_extensions(
    message: descriptor_pb2.DescriptorProto,
) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    yield from message.extension
    for nested in message.nested_type:
        yield from _nested_extensions(nested)
