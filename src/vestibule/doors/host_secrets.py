"""Secret discovery for one Envoy, by the sidecar that started it: what it needs of the files of this host.

It is served on a socket in the sidecar's private directory.  Which files there are to read stands in the names that the
Envoy asks for (``envoy.host_secrets``); what is in them goes to the Envoy and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from envoy.service.secret.v3 import sds_pb2

from vestibule.doors.xds_serving import serve_delta
from vestibule.envoy.host_secrets import (
    CertificateFiles,
    CredentialFile,
    FetchedToken,
    FileSecret,
    HostSecret,
    PublicTrust,
    parse,
)
from vestibule.envoy.protos import serialized
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.xds.resources import SECRET, Resource, Snapshot

SERVICE: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]
MOST_NAMES: Final = 1000
"""Of one stream; an Envoy has a stream for each secret."""


class Tokens(Protocol):
    """What is got of the mesh's own token service (``proxy.fetched_tokens``)."""

    def content(self, wanted: FetchedToken) -> bytes | None:
        """The value of a header; None before there is one, empty where it has ended, which is reported elsewhere."""
        ...


class HostFiles(Protocol):
    """The files of the host (``proxy.host_files``)."""

    def content(self, secret: FileSecret) -> tuple[bytes, ...] | None:
        """The parts that a secret is made of; None while they cannot be had, which is reported elsewhere."""
        ...

    async def changed(self) -> None:
        """Return when any content may have become another, a token's too."""
        ...


class HostSecretsDoor:
    """Serves what is asked for, and again whenever it changes on disk."""

    def __init__(self, files: HostFiles, tokens: Tokens | None = None) -> None:
        self._files = files
        self._tokens = tokens

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def delta_secrets(self, stream: Stream) -> None:
        """Incremental.  A secret that cannot be had is told as removed: Envoy then fails what needs it, at once."""
        view = _View(self._files, self._tokens)
        await serve_delta(
            stream, view.snapshots(), types=(SECRET,), node_required=False, on_request=view.note
        )


class _View:
    """What one stream asked for."""

    def __init__(self, files: HostFiles, tokens: Tokens | None) -> None:
        self._files = files
        self._tokens = tokens
        self._asked: dict[str, HostSecret] = {}

    def note(self, message: Any) -> Snapshot | None:
        """Take note of the names in a request before it is acted upon."""
        new = {name: parse(name) for name in message.resource_names_subscribe if name not in self._asked}
        known = {name: secret for name, secret in new.items() if secret is not None}
        if not known or len(self._asked) + len(known) > MOST_NAMES:
            return None if self._asked else self._snapshot()
        self._asked |= known
        return self._snapshot()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            await self._files.changed()
            yield self._snapshot()

    def _snapshot(self) -> Snapshot:
        found = ((name, secret, self._content(secret)) for name, secret in self._asked.items())
        secrets = (
            Resource.of(SECRET, name, serialized(_secret(name, secret, content)))
            for name, secret, content in found
            if content is not None
        )
        return Snapshot.of("host", secrets)

    def _content(self, secret: HostSecret) -> tuple[bytes, ...] | None:
        if not isinstance(secret, FetchedToken):
            return self._files.content(secret)
        found = None if self._tokens is None else self._tokens.content(secret)
        return None if found is None else (found,)


def _secret(name: str, secret: HostSecret, content: tuple[bytes, ...]) -> secret_pb2.Secret:
    made = secret_pb2.Secret(name=name)
    match secret:
        case PublicTrust():
            made.validation_context.trusted_ca.CopyFrom(_inline(content[0]))
        case CredentialFile() | FetchedToken():
            made.generic_secret.secret.CopyFrom(_inline(content[0]))
        case CertificateFiles():
            made.tls_certificate.CopyFrom(
                common_pb2.TlsCertificate(
                    certificate_chain=_inline(content[0]), private_key=_inline(content[1])
                )
            )
    return made


def _inline(data: bytes) -> base_pb2.DataSource:
    return base_pb2.DataSource(inline_bytes=data)
