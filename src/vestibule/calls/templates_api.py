"""What an agent asks the server about templates (``vestibule.node.v1.Templates``)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Generic, Protocol, TypeVar

from vestibule.calls.channel import ServerChannel
from vestibule.calls.standing import standing
from vestibule.errors import Kind, VestibuleError
from vestibule.net.codes import REMOTE_REFUSED
from vestibule.net.grpc import Client
from vestibule.spiffe import Selector
from vestibule.spiffe.templates import Variable
from vestibule.wire.gen.spire import types_pb2
from vestibule.wire.gen.vestibule.node.v1 import templates_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Templates"]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class MakeTemplate(Protocol[T_co]):
    """A constructor of templates (``agent.templates.Template``)."""

    def __call__(
        self,
        *,
        entry_id: str,
        revision: int,
        selectors: frozenset[Selector],
        variables: frozenset[Variable],
        path_template: str,
    ) -> T_co: ...


class TemplatesApi(Generic[T]):
    """A client of the server's templates.  Raises what ``calls.identity_api.IdentityApi`` does."""

    def __init__(
        self,
        channel: ServerChannel,
        template: MakeTemplate[T],
    ) -> None:
        """``template`` makes the value that the caller wants."""
        self._client = Client(channel, SERVICE)
        self._template = template

    async def templates(self) -> Sequence[T]:
        """Those that this agent is entitled to; none from a server that knows no templates, such as SPIRE's."""
        try:
            with standing():
                answer = await self._client.unary("List", wire.ListTemplatesRequest())
        except VestibuleError as error:
            if error.code.kind is Kind.UNIMPLEMENTED or (
                error.code is REMOTE_REFUSED and error.message.startswith("UNIMPLEMENTED")
            ):
                return ()
            raise
        return [
            self._template(
                entry_id=each.entry_id,
                revision=each.revision,
                selectors=frozenset(Selector(found.type, found.value) for found in each.selectors),
                variables=frozenset(Variable(*name.split(":", 1)) for name in each.variables),
                path_template=each.path_template,
            )
            for each in answer.templates
        ]

    async def derive(self, entry_id: str, selectors: frozenset[Selector]) -> tuple[str, datetime]:
        """The ID of the entry that a template gives for these selectors, and when it ends."""
        request = wire.DeriveRequest(
            entry_id=entry_id,
            selectors=[types_pb2.Selector(type=each.type, value=each.value) for each in sorted(selectors)],
        )
        with standing():
            answer = await self._client.unary("Derive", request)
        return answer.entry_id, datetime.fromtimestamp(answer.expires_at, UTC)
