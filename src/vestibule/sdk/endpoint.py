"""Where the Workload API is (SPIFFE_Workload_Endpoint.md, section 4)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from grpclib.client import Channel

from vestibule.calls.unix import CheckedChannel, unix_channel
from vestibule.errors import VestibuleError
from vestibule.net.unix import check_path
from vestibule.sdk.codes import MALFORMED_ENDPOINT, NO_ENDPOINT

VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address of the Workload API: the path of a Unix socket, or an IP address with a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``unix:///run/agent.sock`` (or ``unix:/run/agent.sock``) or ``tcp://127.0.0.1:8000``.

        Raises: VST2401, and VST2310 for a path that no Unix socket can have.
        """
        try:
            url = urlsplit(text)
            if any(each in "?#" or each <= " " for each in text):
                raise _malformed(text, "has a query, a fragment or a blank")
            if url.scheme == "unix":
                return _unix(text, url)
            if url.scheme == "tcp":
                return _tcp(text, url)
        except ValueError as error:
            raise _malformed(text, f"is not a URI: {error}") from error
        raise _malformed(text, "starts with neither unix: nor tcp:")

    @classmethod
    def find(cls, text: str | None = None, environment: Mapping[str, str] = os.environ) -> Endpoint:
        """The given address, or the one of the environment.  Raises: VST2400, VST2401, VST2310."""
        address = text or environment.get(VARIABLE)
        if not address:
            raise NO_ENDPOINT.error(f"no Workload API address was given and {VARIABLE} is not set")
        return cls.parse(address)

    def channel(self) -> Channel:
        """A channel to it.  Connects at the first call, and again after a lost connection."""
        if self.path:
            return unix_channel(Path(self.path))
        return CheckedChannel(self.host, self.port)

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def _unix(text: str, url: SplitResult) -> Endpoint:
    if url.netloc or not url.path.startswith("/"):
        raise _malformed(text, "does not name the absolute path of a Unix socket, with nothing before it")
    path = unquote(url.path)
    if "\0" in path:
        raise _malformed(text, "has a path that no file can have")
    check_path(Path(path))
    return Endpoint(path=path)


def _tcp(text: str, url: SplitResult) -> Endpoint:
    # An IP address and no name, as the standard says: nobody who answers for DNS gets between.
    if url.path or url.username is not None or url.password is not None or not url.port or not url.hostname:
        raise _malformed(text, "is not tcp://IP:PORT")
    try:
        host = ipaddress.ip_address(url.hostname)
    except ValueError as error:
        raise _malformed(text, "names its host by something else than an IP address") from error
    return Endpoint(host=str(host), port=url.port)


def _malformed(text: str, why: str) -> VestibuleError:
    return MALFORMED_ENDPOINT.error(f"{text[:200]!r} {why}")
