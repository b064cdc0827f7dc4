"""An offline root signs what its policy allows, remembers it, and takes it back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.unit.identity.ca.lab import DOMAIN, NOW, Asking, RootLab

from vestibule.errors import VestibuleError
from vestibule.identity.ca.requests import read_answer, read_request, record_install
from vestibule.identity.ca.witness import verify
from vestibule.pki.crls import read_crl
from vestibule.pki.csr import csr_builder, make_csr
from vestibule.pki.keys import generate_key
from vestibule.pki.pem import CERTIFICATE, CRL, REQUEST, pem_block, pem_blocks
from vestibule.spiffe import SpiffeId, TrustDomain

DAYS = timedelta(days=1)


@pytest.fixture
async def lab(tmp_path: Path) -> RootLab:
    return await RootLab(tmp_path / "root").made()


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    return Asking(tmp_path / "prod")


async def test_a_request_becomes_an_intermediate_that_leads_to_the_root(lab: RootLab, asking: Asking) -> None:
    request = read_request(await asking.asks())
    answer = await lab.answers(request, ttl=90 * DAYS)
    taken = read_answer(answer, request.name, request.public_key, [lab.der], DOMAIN, NOW)
    assert taken.not_after == NOW + 90 * DAYS
    length = taken.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (length.critical, length.value) == (True, x509.BasicConstraints(ca=True, path_length=1))
    assert [each.name for each in lab.root.register().issued] == ["prod-2026-Q4"]


async def test_without_a_lifetime_the_policys_longest_is_given(lab: RootLab, asking: Asking) -> None:
    await lab.answers(await asking.asks())
    assert lab.root.register().issued[0].not_after == NOW + 100 * DAYS


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"ttl": 101 * DAYS}, "longer than the policy"),
        ({"path_length": 2}, "not within the policy"),
        ({"path_length": -1}, "not within the policy"),
        ({"expected_key": "00" * 20}, "not for the expected one"),
    ],
)
async def test_what_breaks_the_policy_is_not_signed(
    lab: RootLab, asking: Asking, asked: dict[str, Any], why: str
) -> None:
    with pytest.raises(VestibuleError, match=f"VST1031.*{why}"):
        await lab.answers(await asking.asks(), **asked)
    assert len(lab.root.register().steps) == 1


async def test_the_key_that_was_read_out_aloud_may_be_written_with_colons(
    lab: RootLab, asking: Asking
) -> None:
    request = read_request(await asking.asks())
    spoken = ":".join(request.key_id[at : at + 2] for at in range(0, 40, 2)).upper()
    await lab.answers(request, expected_key=spoken)


async def test_an_intermediate_never_outlives_the_root(tmp_path: Path, asking: Asking) -> None:
    lab = await RootLab(tmp_path / "short").made(ttl=50 * DAYS)
    with pytest.raises(VestibuleError, match="VST1031"):
        await lab.answers(await asking.asks())
    await lab.answers(await asking.asks("b"), ttl=49 * DAYS)


async def test_another_trust_domain_is_refused(lab: RootLab, asking: Asking) -> None:
    with pytest.raises(VestibuleError, match=r"VST1031.*evil\.org"):
        await lab.answers(await asking.asks(domain=TrustDomain.parse("evil.org")))


async def test_neither_a_name_nor_a_key_is_signed_twice(lab: RootLab, asking: Asking, tmp_path: Path) -> None:
    request = await asking.asks()
    await lab.answers(request)
    with pytest.raises(VestibuleError, match=r"VST1031.*named prod-2026-Q4"):
        await lab.answers(await Asking(tmp_path / "other").asks())
    again = replace(read_request(request), name="prod-2026-Q5")
    with pytest.raises(VestibuleError, match=r"VST1031.*this key"):
        await lab.answers(again)


async def test_the_roots_own_key_is_not_made_its_own_intermediate(lab: RootLab, asking: Asking) -> None:
    asking.keys.hold("self", lab.key)
    with pytest.raises(VestibuleError, match=r"VST1031.*own key"):
        await lab.answers(await asking.asks("self", key=False))


def test_a_request_for_a_workload_or_for_names_is_refused() -> None:
    key = generate_key()
    for csr in (
        make_csr(key, SpiffeId.parse("spiffe://example.org/web")),
        make_csr(key, DOMAIN.id, ["web.example.org"]),
        make_csr(key),
        make_csr(key, DOMAIN.id),  # and one without a name for people
    ):
        with pytest.raises(VestibuleError, match="VST1031"):
            read_request(pem_block(REQUEST, csr))


async def test_a_request_whose_key_is_not_proven_is_refused(asking: Asking) -> None:
    (csr,) = pem_blocks(await asking.asks(), REQUEST)
    with pytest.raises(VestibuleError, match="VST1001"):
        read_request(pem_block(REQUEST, csr[:-1] + bytes([csr[-1] ^ 1])))


async def test_a_step_about_another_request_is_refused(asking: Asking) -> None:
    first, second = await asking.asks("a"), await asking.asks("b")
    mixed = first[: first.index(b"-----BEGIN")] + second[second.index(b"-----BEGIN") :]
    with pytest.raises(VestibuleError, match="VST1031"):
        read_request(mixed)


@pytest.mark.parametrize("name", ["", "../x", "a b", ".a", "a" * 64, "ä", "a\nb"])
async def test_a_name_that_could_leave_its_directory_is_refused(asking: Asking, name: str) -> None:
    await asking.keys.generate("k")
    key = generate_key()
    if name:
        csr = csr_builder(DOMAIN.id, common_name=name)
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        with pytest.raises(VestibuleError, match="VST1031"):
            read_request(pem_block(REQUEST, csr.sign(key, SHA256()).public_bytes(Encoding.DER)))
    with pytest.raises(VestibuleError, match="VST1031"):
        await asking.asks(name, key=False)


async def test_the_answer_to_another_request_is_refused(lab: RootLab, asking: Asking, tmp_path: Path) -> None:
    ours, theirs = read_request(await asking.asks("a")), read_request(await asking.asks("b"))
    answer, other = await lab.answers(ours), await lab.answers(theirs)
    stranger = await RootLab(tmp_path / "stranger").made()

    def taken(file: bytes, **more: object) -> object:
        given = {"name": ours.name, "roots": [lab.der], "domain": DOMAIN, "now": NOW, "below": 1} | more
        return read_answer(
            file,
            given["name"],  # type: ignore[arg-type]
            ours.public_key,
            given["roots"],  # type: ignore[arg-type]
            given["domain"],  # type: ignore[arg-type]
            given["now"],  # type: ignore[arg-type]
            signers_below=given["below"],  # type: ignore[arg-type]
        )

    taken(answer)
    wrong: list[tuple[bytes, dict[str, object]]] = [
        (other, {}),
        (answer, {"name": "b"}),
        (answer, {"roots": [stranger.der]}),
        (answer, {"domain": TrustDomain.parse("evil.org")}),
        (answer, {"now": NOW + 101 * DAYS}),
        (answer, {"now": NOW - DAYS}),
        (answer, {"below": 2}),
        (pem_block(CERTIFICATE, lab.der), {}),
        (other[: other.index(b"-----BEGIN")] + answer[answer.index(b"-----BEGIN") :], {}),
    ]
    for file, more in wrong:
        with pytest.raises(VestibuleError, match="VST1385"):
            taken(file, **more)
    with pytest.raises(VestibuleError, match="VST1032"):
        taken(b"nothing")


async def test_a_revoked_intermediate_stands_in_lists_whose_numbers_grow(
    lab: RootLab, asking: Asking
) -> None:
    await lab.answers(await asking.asks("a"))
    await lab.answers(await asking.asks("b"))
    await lab.root.revoke("a", "keyCompromise", lab.keys, NOW + DAYS)
    lists = [await lab.root.crl(lab.keys, NOW + 2 * DAYS, 30 * DAYS) for _ in range(2)]
    facts = [read_crl(pem_blocks(pem, CRL)[0], lab.root.certificate()) for _, pem in lists]
    assert [each.number for each in facts] == [1, 2]
    (entry,) = facts[1].revoked
    issued = lab.root.register().find("a")
    assert (entry.serial, entry.reason, entry.at) == (issued.serial, "keyCompromise", NOW + DAYS)
    assert lab.root.register().find(f"{issued.serial:x}").revoked == entry


async def test_a_revocation_is_for_good_and_of_something_that_exists(lab: RootLab, asking: Asking) -> None:
    await lab.answers(await asking.asks())
    with pytest.raises(VestibuleError, match="VST1382"):
        await lab.root.revoke("nobody", "unspecified", lab.keys, NOW)
    with pytest.raises(VestibuleError, match="VST1017"):
        await lab.root.revoke("prod-2026-Q4", "certificateHold", lab.keys, NOW)
    await lab.root.revoke("prod-2026-Q4", "superseded", lab.keys, NOW)
    with pytest.raises(VestibuleError, match="VST1383"):
        await lab.root.revoke("prod-2026-Q4", "keyCompromise", lab.keys, NOW)


async def test_a_root_is_made_once(lab: RootLab) -> None:
    with pytest.raises(VestibuleError, match="VST1380"):
        lab.root.refuse_existing()


async def test_a_transcript_of_another_root_or_without_its_beginning_is_not_believed(
    lab: RootLab, tmp_path: Path
) -> None:
    other = await RootLab(tmp_path / "other").made()
    transcript = lab.directory / "transcript.txt"
    transcript.write_bytes((other.directory / "transcript.txt").read_bytes())
    with pytest.raises(VestibuleError, match="VST1030"):
        lab.root.register()
    transcript.unlink()
    with pytest.raises(VestibuleError, match="VST1381"):
        lab.root.register()


async def test_a_file_that_others_may_read_is_refused(lab: RootLab) -> None:
    (lab.directory / "transcript.txt").chmod(0o644)
    with pytest.raises(VestibuleError, match="VST1381"):
        lab.root.register()


# --------------------------------------------------------------------------------------------- witnesses


async def whole_ceremony(lab: RootLab, asking: Asking) -> dict[str, str]:
    request = read_request(await asking.asks())
    answer = await lab.answers(request)
    taken = read_answer(answer, request.name, request.public_key, [lab.der], DOMAIN, NOW)
    await record_install(asking.transcript, asking.keys, request.name, taken, NOW)
    return {name: (path / "transcript.txt").read_text() for name, path in
            {"root": lab.directory, "prod": asking.directory}.items()}  # fmt: skip


async def test_a_witness_sees_the_whole_ceremony(lab: RootLab, asking: Asking) -> None:
    verdict = verify(await whole_ceremony(lab, asking), lab.der)
    assert verdict.ceremonies == ("prod-2026-Q4: requested, signed 2026-10-01, installed",)
    assert [(each.path, each.steps) for each in verdict.files] == [("root", 2), ("prod", 2)]


async def test_a_witness_notices_another_root_and_a_missing_side(
    lab: RootLab, asking: Asking, tmp_path: Path
) -> None:
    texts = await whole_ceremony(lab, asking)
    other = await RootLab(tmp_path / "other").made()
    with pytest.raises(VestibuleError, match=r"VST1030.*root"):
        verify(texts, other.der)
    with pytest.raises(VestibuleError, match=r"VST1030.*names no step"):
        verify({"prod": texts["prod"]}, lab.der)
    (line,) = verify({"root": texts["root"]}, lab.der).ceremonies
    assert line == "prod-2026-Q4: request not seen, signed 2026-10-01, installation not seen"


async def test_a_witness_notices_a_request_that_was_swapped_on_the_way(
    lab: RootLab, asking: Asking, tmp_path: Path
) -> None:
    texts = await whole_ceremony(lab, asking)
    mallory = Asking(tmp_path / "mallory")
    request = read_request(await mallory.asks("prod-2027-Q1"))
    answer = await lab.answers(request)
    taken = read_answer(answer, request.name, request.public_key, [lab.der], DOMAIN, NOW)
    # Mallory's installation, without the request that it belongs to.
    await record_install(
        Asking(tmp_path / "victim", mallory.keys).transcript, mallory.keys, request.name, taken, NOW
    )
    texts["root"] = (lab.directory / "transcript.txt").read_text()
    texts["victim"] = (tmp_path / "victim" / "transcript.txt").read_text()
    with pytest.raises(VestibuleError, match=r"VST1030.*another request"):
        verify(texts, lab.der)
