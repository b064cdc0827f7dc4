"""An impostor knows who dialled it and who trusted it; a forged SVID is flawless but for its authority."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import pytest

from vestibule.app.up.dialling import dial_tls
from vestibule.app.up.edges import Request
from vestibule.app.up.proofs.foreign_ca_refused import forge
from vestibule.app.up.proofs.impostor import Impostor
from vestibule.app.up.proofs.wrong_identity_refused import names_identity
from vestibule.errors import VestibuleError
from vestibule.pki.chains import leaf_facts, verify_x509_svid
from vestibule.processes import reserve
from vestibule.records import Address
from vestibule.testing import TestAuthority


def test_who_sends_a_request_trusted_it() -> None:
    kept = reserve()
    address = Address(host=kept.host, port=kept.port)
    with (
        Impostor(address, TestAuthority().svid("/other")) as impostor,
        dial_tls(address, None).connection as connection,
    ):
        assert connection.ask("payments", Request("GET", "/")).body == b"impostor"
    assert (impostor.dialled, impostor.trusted) == (1, 1)
    kept.release()


def test_who_hangs_up_in_the_handshake_did_not() -> None:
    kept = reserve()
    address = Address(host=kept.host, port=kept.port)
    with Impostor(address, TestAuthority().svid("/other")) as impostor:
        socket.create_connection((address.host, address.port)).close()
        # Connections are taken one after the other, so after this one the first is over.
        dial_tls(address, None).connection.close()
    assert (impostor.dialled, impostor.trusted) == (2, 0)
    kept.release()


def test_its_address_is_free_again_afterwards() -> None:
    kept = reserve()
    address = Address(host=kept.host, port=kept.port)
    for _ in range(2):
        with Impostor(address, TestAuthority().svid("/other")):
            pass
    kept.release()


def test_a_forged_svid_holds_against_its_own_authority_only() -> None:
    authority = TestAuthority()
    genuine = authority.svid("/ns/prod/sa/web")
    forged = forge(genuine.spiffe_id)
    assert leaf_facts(forged.chain[0]).spiffe_id == genuine.spiffe_id
    now = datetime.now(UTC)
    assert verify_x509_svid(genuine.chain, authority.bundle, now) == genuine.spiffe_id
    with pytest.raises(VestibuleError):
        verify_x509_svid(forged.chain, authority.bundle, now)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end", True),
        ("verify cert failed: SAN match", True),
        ("delayed connect error: Connection refused", False),
        ("", False),
    ],
)
def test_a_refused_identity_is_told_apart_from_nobody_there(failure: str, told: bool) -> None:
    assert names_identity(failure) is told
