"""gcp_iit and aws_iid: signatures checked offline, and only what was verified is used."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.attest.node.clouds import DOCUMENT, NOW, OTHER_RSA_KEY, RSA_KEY, TD, Amazon, Google

from vestibule.attest.node import AttestedNode
from vestibule.attest.node.aws_iid import AwsIidAttestor, AwsIidSettings
from vestibule.attest.node.cms import CmsError, signed_content
from vestibule.attest.node.gcp_iit import GcpIitAttestor, GcpIitSettings
from vestibule.errors import VestibuleError


async def no_challenge(_: bytes) -> bytes:
    raise AssertionError


# ----------------------------------------------------------------------------------------- Google


def gcp(google: Google, fetched: list[int] | None = None) -> GcpIitAttestor:
    async def keys() -> bytes:
        if fetched is not None:
            fetched.append(1)
        return google.jwks()

    return GcpIitAttestor(GcpIitSettings(projects=("project-1",)), TD, keys)


async def test_a_token_of_an_instance_in_our_project_is_accepted() -> None:
    node = await gcp(Google()).attest(Google().token(), no_challenge, NOW)
    assert node.agent_id.path == "/spire/agent/gcp_iit/project-1/1234567890"


def instance(**more: Any) -> dict[str, Any]:
    engine: dict[str, Any] = Google().claims()["google"]["compute_engine"]
    return {"google": {"compute_engine": {**engine, **more}}}


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"},
        {"aud": "another"},
        {"aud": ["spire-gcp-node-attestor", "another"]},
        {"exp": int(NOW.timestamp()) - 3600},
        {"exp": None},
        {"exp": True},
        {"exp": "9999999999"},
        {"exp": 1e300},
        {"iat": int(NOW.timestamp()) + 3600},
        {"google": {}},
        {"google": None},
        instance(project_id="project-2"),
        instance(instance_id="../x"),
        instance(instance_id=""),
        instance(instance_id=12345),
    ],
)
async def test_a_token_with_other_claims_is_refused(claims: dict[str, Any]) -> None:
    google = Google()
    with pytest.raises(VestibuleError, match="VST2004"):
        await gcp(google).attest(google.token(google.claims(**claims)), no_challenge, NOW)


@pytest.mark.parametrize(
    "head",
    [
        {"alg": "none", "kid": "g1"},
        {"alg": "HS256", "kid": "g1"},
        {"alg": "PS256", "kid": "g1"},
        {"kid": "g1"},
        {"alg": "RS256", "kid": "unknown"},
        {"alg": "RS256"},
    ],
)
async def test_a_token_with_another_algorithm_or_key_is_refused(head: dict[str, Any]) -> None:
    google = Google()
    with pytest.raises(VestibuleError, match="VST2004"):
        await gcp(google).attest(google.token(head=head), no_challenge, NOW)


async def test_a_token_that_somebody_else_signed_is_refused() -> None:
    with pytest.raises(VestibuleError, match="VST2004"):
        await gcp(Google()).attest(Google(key=OTHER_RSA_KEY).token(), no_challenge, NOW)


async def test_keys_are_remembered_and_unknown_ones_asked_for_once_a_minute() -> None:
    google, fetched = Google(), list[int]()
    attestor = gcp(google, fetched)
    token = google.token()
    for _ in range(3):
        await attestor.attest(token, no_challenge, NOW)
    assert len(fetched) == 1
    google.kid = "g2"
    rotated = google.token()
    for _ in range(3):
        with pytest.raises(VestibuleError, match="VST2004"):
            await attestor.attest(rotated, no_challenge, NOW)
    assert len(fetched) == 1
    await attestor.attest(rotated, no_challenge, NOW + timedelta(seconds=61))
    assert len(fetched) == 2


async def test_keys_that_are_no_jwk_set_are_no_verdict() -> None:
    async def keys() -> bytes:
        return b"<html>"

    attestor = GcpIitAttestor(GcpIitSettings(projects=("project-1",)), TD, keys)
    with pytest.raises(VestibuleError, match="VST2007"):
        await attestor.attest(Google().token(), no_challenge, NOW)


# ----------------------------------------------------------------------------------------- Amazon


async def aws(directory: Path, evidence: bytes, **more: Any) -> AttestedNode:
    Amazon().write(directory)
    settings = AwsIidSettings(accounts=("123456789012",), certificates=directory, **more)
    return await AwsIidAttestor(settings, TD).attest(evidence, no_challenge, NOW)


async def test_a_document_of_an_instance_in_our_account_is_accepted(tmp_path: Path) -> None:
    node = await aws(tmp_path, Amazon().evidence())
    assert node.agent_id.path == "/spire/agent/aws_iid/123456789012/eu-central-1/i-0123456789"


async def test_one_document_verified_and_another_used_is_refused(tmp_path: Path) -> None:
    """A genuine signature of the attacker's own instance beside a forged document."""
    forged = json.dumps(DOCUMENT | {"instanceId": "i-9999999999"})
    with pytest.raises(VestibuleError, match=r"VST2004 .*another one"):
        await aws(
            tmp_path,
            Amazon().evidence(document=forged.encode(), rsa2048=json.loads(Amazon().evidence())["rsa2048"]),
        )
    # Nor does a document that reads in two ways.
    twice = json.dumps(DOCUMENT)[:-1] + ', "instanceId": "i-9999999999"}'
    with pytest.raises(VestibuleError, match="VST2003"):
        await aws(tmp_path, Amazon().evidence(twice.encode()))


async def test_a_document_of_another_account_region_or_signer_is_refused(tmp_path: Path) -> None:
    for evidence in (
        Amazon().evidence(DOCUMENT | {"accountId": "999999999999"}),
        Amazon().evidence(DOCUMENT | {"accountId": 123456789012}),
        Amazon().evidence(DOCUMENT | {"region": "us-east-1"}),
        Amazon().evidence(DOCUMENT | {"region": "../eu-central-1"}),
        Amazon().evidence(DOCUMENT | {"instanceId": "a/b"}),
        Amazon().evidence(DOCUMENT | {"instanceId": ""}),
        Amazon(key=OTHER_RSA_KEY).evidence(),
    ):
        with pytest.raises(VestibuleError, match="VST2004"):
            await aws(tmp_path, evidence)


async def test_the_short_key_counts_only_where_it_is_permitted(tmp_path: Path) -> None:
    evidence = Amazon().evidence(rsa2048="")
    with pytest.raises(VestibuleError, match=r"VST2004 .*without the signature rsa2048"):
        await aws(tmp_path, evidence)
    node = await aws(tmp_path, evidence, allow_rsa1024=True)
    assert node.first_use_only
    with pytest.raises(VestibuleError, match="VST2004"):
        await aws(tmp_path, Amazon(key=OTHER_RSA_KEY).evidence(rsa2048=""), allow_rsa1024=True)


def test_settings_that_let_anybody_in_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match="VST2009"):
        AwsIidAttestor(AwsIidSettings(accounts=("123456789012",), certificates=tmp_path), TD)
    Amazon().write(tmp_path)
    for accounts in ((), ("*",)):
        with pytest.raises(VestibuleError, match="VST2009"):
            AwsIidAttestor(AwsIidSettings(accounts=accounts, certificates=tmp_path), TD)

    async def keys() -> bytes:
        return b""

    with pytest.raises(VestibuleError, match="VST2009"):
        GcpIitAttestor(GcpIitSettings(projects=()), TD, keys)


# -------------------------------------------------------------------------------------------- CMS

CONTENT = json.dumps(DOCUMENT).encode()
KEYS = [RSA_KEY.public_key()]


@pytest.mark.parametrize("options", [(), (pkcs7.PKCS7Options.NoCerts,), (pkcs7.PKCS7Options.NoAttributes,)])
def test_the_signed_content_comes_out(options: tuple[pkcs7.PKCS7Options, ...]) -> None:
    assert signed_content(Amazon().signature(CONTENT, *options), KEYS) == CONTENT


def test_content_that_is_not_inside_is_refused() -> None:
    with pytest.raises(CmsError):
        signed_content(Amazon().signature(CONTENT, pkcs7.PKCS7Options.DetachedSignature), KEYS)


def test_a_signature_by_its_own_certificate_is_not_believed() -> None:
    with pytest.raises(CmsError):
        signed_content(Amazon(key=OTHER_RSA_KEY).signature(CONTENT), KEYS)


def indefinite(data: bytes) -> bytes:
    """The same in BER as AWS writes it: the outer parts without lengths, the content in pieces."""
    outer = _parts(data)
    oid, wrapped = _parts(outer[0][1])
    (signed_data,) = _parts(wrapped[1])
    version, digests, content_info, *rest = _parts(signed_data[1])
    kind, explicit = _parts(content_info[1])
    (octets,) = _parts(explicit[1])
    pieces = b"".join(_der(0x04, octets[1][at : at + 50]) for at in range(0, len(octets[1]), 50))
    content = _open(0x30, kind[2] + _open(0xA0, _open(0x24, pieces)))
    inner = version[2] + digests[2] + content + b"".join(each[2] for each in rest)
    return _open(0x30, oid[2] + _open(0xA0, _open(0x30, inner)))


def _open(tag: int, value: bytes) -> bytes:
    return bytes([tag, 0x80]) + value + b"\0\0"


def _der(tag: int, value: bytes) -> bytes:
    return bytes([tag, len(value)]) + value


def _parts(data: bytes) -> list[tuple[int, bytes, bytes]]:
    found = []
    while data:
        size = data[1] & 0x7F if data[1] & 0x80 else 0
        length = int.from_bytes(data[2 : 2 + size]) if size else data[1]
        end = 2 + size + length
        found.append((data[0], data[2 + size : end], data[:end]))
        data = data[end:]
    return found


def test_the_form_that_aws_writes_is_read() -> None:
    ber = indefinite(Amazon().signature(CONTENT, pkcs7.PKCS7Options.NoCerts))
    assert base64.b64encode(ber).startswith(b"MIAGCSqGSIb3DQEHAqCAMIAC")
    assert signed_content(ber, KEYS) == CONTENT


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CmsError):
        signed_content(data, KEYS)


SIGNED = Amazon().signature(CONTENT, pkcs7.PKCS7Options.NoCerts)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_no_changed_byte_changes_what_is_accepted(place: int, change: int) -> None:
    changed = SIGNED[:place] + bytes([SIGNED[place] ^ change]) + SIGNED[place + 1 :]
    with suppress(CmsError):
        assert signed_content(changed, KEYS) == CONTENT


def test_deep_nesting_ends() -> None:
    for data in (b"\x30\x80" * 5000, b"\x30\x80" + b"\x04\x00" * 5000):
        with pytest.raises(CmsError):
            signed_content(data, KEYS)
