"""x509pop: who gets in with a certificate, and that nobody can make the server compute for long."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.unit.attest.node.clouds import (
    NOW,
    PEM,
    RSA_KEY,
    TD,
    Company,
    Key,
    certificate,
    fingerprint,
    new_key,
)

from vestibule.attest.node import AttestedNode
from vestibule.attest.node.x509pop import (
    X509PopAttestor,
    X509PopProof,
    X509PopProofSettings,
    X509PopSettings,
)
from vestibule.errors import VestibuleError


@pytest.fixture(scope="module")
def company() -> Company:
    return Company()


def payload(*chain: x509.Certificate) -> bytes:
    der = [each.public_bytes(serialization.Encoding.DER) for each in chain]
    return json.dumps({"certificates": [base64.b64encode(each).decode() for each in der]}).encode()


async def attest(
    directory: Path, company: Company, key: Key, leaf: x509.Certificate | None = None, **more: Any
) -> AttestedNode:
    company.write(directory, key, leaf)
    proof = X509PopProof(
        X509PopProofSettings(certificate_file=directory / "node.pem", key_file=directory / "node.key")
    )
    attestor = X509PopAttestor(X509PopSettings(ca_file=directory / "ca.pem", **more), TD)
    return await attestor.attest(await proof.payload(), proof.respond, NOW)


async def refused(directory: Path, company: Company, data: bytes, why: str, **more: Any) -> None:
    company.write(directory, new_key())
    attestor = X509PopAttestor(X509PopSettings(ca_file=directory / "ca.pem", **more), TD)

    async def challenge(_: bytes) -> bytes:
        raise AssertionError("it was not worth a challenge")

    with pytest.raises(VestibuleError, match=f"VST200[34] .*{why}"):
        await attestor.attest(data, challenge, NOW)


@pytest.mark.parametrize(
    "key",
    [new_key(), ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()), RSA_KEY],
)
async def test_the_usual_keys_prove_a_node(tmp_path: Path, company: Company, key: Key) -> None:
    leaf = company.leaf(key)
    node = await attest(tmp_path, company, key, leaf)
    assert node.agent_id.path == f"/spire/agent/x509pop/{fingerprint(leaf)}"


async def test_selectors_are_spires(tmp_path: Path, company: Company) -> None:
    key = new_key()
    uris = (
        "x509pop://example.org/rack/a/7",
        "x509pop://other.org/rack/b",
        "x509pop://example.org/bare",
        "https://x/y/z",
    )
    node = await attest(tmp_path, company, key, company.leaf(key, uris=uris))
    assert {str(each) for each in node.selectors} == {
        "x509pop:subject:cn:node-1",
        "x509pop:serialnumber:0abc",
        "x509pop:san:rack:a/7",
        f"x509pop:ca:fingerprint:{fingerprint(company.root)}",
        f"x509pop:ca:fingerprint:{fingerprint(company.intermediate)}",
    }


async def test_a_certificate_without_its_key_is_worth_nothing(tmp_path: Path, company: Company) -> None:
    leaf = company.leaf(new_key())
    with pytest.raises(VestibuleError, match=r"VST2004 .*does not have the key"):
        await attest(tmp_path, company, new_key(), leaf)


async def test_an_answer_to_another_challenge_is_refused(tmp_path: Path, company: Company) -> None:
    key = new_key()
    company.write(tmp_path, key)
    proof = X509PopProof(
        X509PopProofSettings(certificate_file=tmp_path / "node.pem", key_file=tmp_path / "node.key")
    )
    attestor = X509PopAttestor(X509PopSettings(ca_file=tmp_path / "ca.pem"), TD)
    answers: list[bytes] = []

    async def record(question: bytes) -> bytes:
        answers.append(await proof.respond(question))
        return answers[-1]

    async def replay(_: bytes) -> bytes:
        return answers[0]

    await attestor.attest(await proof.payload(), record, NOW)
    with pytest.raises(VestibuleError, match="VST2004"):
        await attestor.attest(await proof.payload(), replay, NOW)


async def test_a_certificate_that_is_not_ours_not_valid_or_not_for_signing_is_refused(
    tmp_path: Path, company: Company
) -> None:
    key, foreign = new_key(), Company()
    for leaf in (
        company.leaf(key, ends=timedelta(hours=-1)),
        company.leaf(key, digital_signature=False),
        foreign.leaf(key),
        certificate("self", key),
        company.leaf(key, ca=True),
    ):
        await refused(tmp_path, company, payload(leaf, company.intermediate), "")
    # A leaf cannot issue.
    below = certificate("below", new_key(), "node-1", key)
    await refused(tmp_path, company, payload(below, company.leaf(key), company.intermediate), "")


async def test_too_many_certificates_or_ones_out_of_order_are_not_looked_at(
    tmp_path: Path, company: Company
) -> None:
    leaf = company.leaf(new_key())
    await refused(tmp_path, company, payload(leaf, *[company.intermediate] * 5), "too many")
    await refused(tmp_path, company, payload(leaf, company.intermediate), "too many", max_intermediates=0)
    await refused(tmp_path, company, payload(leaf, company.root, company.intermediate), "not in order")


def public(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) + 1).public_key()


async def test_keys_that_are_costly_or_worthless_are_refused_at_once(
    tmp_path: Path, company: Company
) -> None:
    started = time.process_time()
    for key, why in (
        (public(16384), "16384 bits"),
        (public(8193), "8193 bits"),
        (public(1024), "1024 bits"),
        (public(4096, (1 << 4000) + 1), "exponent"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "P-256"),
        (ed25519.Ed25519PrivateKey.generate().public_key(), "P-256"),
    ):
        leaf = certificate("node-1", key, "intermediate", company.intermediate_key)
        await refused(tmp_path, company, payload(leaf, company.intermediate), why)
        intermediate = certificate("intermediate", key, "root", company.key, ca=True)
        await refused(tmp_path, company, payload(company.leaf(new_key()), intermediate), why)
    assert time.process_time() - started < 2


async def test_a_replaced_authority_counts_from_the_next_attestation(
    tmp_path: Path, company: Company
) -> None:
    key = new_key()
    company.write(tmp_path, key)
    attestor = X509PopAttestor(X509PopSettings(ca_file=tmp_path / "ca.pem"), TD)
    proof = X509PopProof(
        X509PopProofSettings(certificate_file=tmp_path / "node.pem", key_file=tmp_path / "node.key")
    )
    await attestor.attest(await proof.payload(), proof.respond, NOW)
    (tmp_path / "ca.pem").write_bytes(Company().root.public_bytes(PEM))
    with pytest.raises(VestibuleError, match="VST2004"):
        await attestor.attest(await proof.payload(), proof.respond, NOW)


async def test_missing_files_are_named(tmp_path: Path, company: Company) -> None:
    with pytest.raises(VestibuleError, match=r"VST2009 .*nothing\.pem"):
        X509PopAttestor(X509PopSettings(ca_file=tmp_path / "nothing.pem"), TD)
    nothing = X509PopProofSettings(certificate_file=tmp_path / "c.pem", key_file=tmp_path / "k.pem")
    with pytest.raises(VestibuleError, match=r"VST2008 .*c\.pem"):
        await X509PopProof(nothing).payload()
    with pytest.raises(VestibuleError, match=r"VST2008 .*k\.pem"):
        await X509PopProof(nothing).respond(b"{}")
