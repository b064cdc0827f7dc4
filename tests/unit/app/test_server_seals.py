"""The seal that the settings ask for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vestibule.app.secret_references import SecretReference
from vestibule.app.server_seals import former_seals, seal_of
from vestibule.app.server_settings import SealKind, ServerSettings
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.records import Address
from vestibule.secrets.seals.ports import Plan
from vestibule.spiffe import TrustDomain
from vestibule.testing.softhsm import SoftToken, softhsm_module

PLAN = Plan(shares=5, threshold=3)
DATABASE = SecretReference.parse("env:DATABASE")
PEERS = (Address(host="127.0.0.1", port=8081),)
SERVICES: Any = SimpleNamespace(store=SimpleNamespace(sealed_rows=None))


def settings(path: Path, **told: Any) -> ServerSettings:
    return ServerSettings(
        trust_domain=TrustDomain.parse("example.org"),
        data_dir=path,
        socket_path=path / "s.sock",
        **told,
    )


@pytest.mark.parametrize("kind", [SealKind.FILE, SealKind.SHAMIR, SealKind.PKCS11, SealKind.PEERS])
async def test_each_kind_seals(tmp_path: Path, kind: SealKind) -> None:
    told: dict[str, Any] = {"secrets_seal": kind}
    if kind is SealKind.PKCS11:
        if softhsm_module() is None:
            pytest.skip("SoftHSM2 is not installed")
        token = SoftToken(tmp_path / "token")
        told |= {
            "pkcs11_module": softhsm_module(),
            "pkcs11_token": token.label,
            "pkcs11_pin_file": token.pin_file,
        }
    if kind is SealKind.PEERS:
        told |= {"database": DATABASE, "secrets_peers": PEERS}
    seal = seal_of(settings(tmp_path, **told), SERVICES, SystemClock())
    wrapped = await seal.wrap(bytes(32), PLAN)
    assert await seal.unwrap(wrapped.document, wrapped.shares[:3]) == bytes(32)
    assert seal.automatic is (kind is not SealKind.SHAMIR)
    assert {each.kind for each in former_seals(settings(tmp_path))} == {"file", "shamir"}


@pytest.mark.parametrize(
    "told",
    [
        {"secrets_peers": PEERS},
        {"secrets_seal": SealKind.SHAMIR, "secrets_peers": PEERS},
        {"secrets_seal": SealKind.PEERS, "database": DATABASE},
        {"secrets_seal": SealKind.PEERS, "secrets_peers": PEERS},
        {"secrets_seal": SealKind.PKCS11},
        {
            "secrets_seal": SealKind.PKCS11,
            "pkcs11_module": Path("/m.so"),
            "pkcs11_token": "t",
            "pkcs11_pin_fd": 3,
        },
        {"secrets_seal": SealKind.FILE, "pkcs11_token": "t"},
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError):
        settings(tmp_path, **told)
