"""What a careful person would write by hand: two Envoys, mutual TLS from files, and nothing else (static_pair/)."""

from __future__ import annotations

import socket
import string
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from _backend import ENVOY
from _server import free_port
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from vestibule.pki.bundles import to_pem
from vestibule.spiffe import X509Svid
from vestibule.testing import TestAuthority

TEMPLATES = Path(__file__).parent / "static_pair"
WITHIN = 15.0


class StaticPair:
    """The pair in front of an app that runs already, for the time of a ``with`` block."""

    def __init__(self, directory: Path, app_port: int, *, workers: int) -> None:
        self._directory = directory
        self._workers = workers
        self._app_port = app_port
        self._processes: list[subprocess.Popen[bytes]] = []
        self.egress_port, self._ingress_port = free_port(), free_port()

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self._processes]

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700)
        values = self._credentials() | {
            "directory": str(self._directory),
            "egress_port": str(self.egress_port),
            "ingress_port": str(self._ingress_port),
            "app_port": str(self._app_port),
        }
        for name, port in (("callee", self._ingress_port), ("caller", self.egress_port)):
            config = self._directory / f"{name}.yaml"
            config.write_text(string.Template((TEMPLATES / config.name).read_text()).substitute(values))
            options = ["--config-path", str(config), "--disable-hot-restart", "--log-level", "critical"]
            options += ["--concurrency", str(self._workers)]
            # A session of its own, as the sidecars have: the kernel shares the processors out between sessions.
            self._processes.append(subprocess.Popen([str(ENVOY), *options], start_new_session=True))
            _wait_for(port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._processes:
            each.terminate()
        for each in self._processes:
            each.wait(15)

    def _credentials(self) -> dict[str, str]:
        authority = TestAuthority("bench.example")
        (self._directory / "ca.pem").write_bytes(to_pem(authority.bundle))
        ids = {}
        for name in ("caller", "callee"):
            svid = authority.svid(f"/ns/bench/sa/{name}")
            (self._directory / f"{name}.pem").write_bytes(_chain(svid))
            (self._directory / f"{name}.key").write_bytes(_key(svid))
            ids[f"{name}_id"] = str(svid.spiffe_id)
        return ids


def _chain(svid: X509Svid) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid.chain)


def _key(svid: X509Svid) -> bytes:
    key = load_der_private_key(svid.key, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"nothing listens on 127.0.0.1:{port}")
