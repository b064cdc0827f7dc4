"""Transcripts: what is read is what was signed."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.transcripts import SignedStep, check_signers, following, read_step, read_transcript, render

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
KEY = generate_key()


def written(*facts: dict[str, str], key: EllipticCurvePrivateKey = KEY) -> list[SignedStep]:
    steps: list[SignedStep] = []
    for number, each in enumerate(facts):
        step = following(steps, "sign", NOW + timedelta(minutes=number), each, key.public_key())
        steps.append(step.signed(key.sign(step.text, ECDSA(SHA256()))))
    return steps


def test_what_was_written_is_read_again() -> None:
    steps = written({"name": "prod"}, {"name": "staging", "note": "über: alles"})
    assert read_transcript(render(steps)) == steps
    assert read_transcript("") == []
    assert steps[1].step.previous == steps[0].step.hash
    assert read_step(steps[1].render()) == steps[1]


def test_every_changed_character_is_noticed() -> None:
    text = render(written({"name": "prod"}, {"name": "staging"}))
    for at in range(0, len(text) - 1, 3):
        changed = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
        with pytest.raises(VestibuleError, match="VST1030"):
            read_transcript(changed)


def test_steps_can_not_be_removed_moved_or_repeated() -> None:
    first, second, third = (each.render() for each in written({"a": "1"}, {"a": "2"}, {"a": "3"}))
    for wrong in (second + third, first + third, second + first, first + first, first + second[:-1]):
        with pytest.raises(VestibuleError, match="VST1030"):
            read_transcript(wrong)


def test_a_step_that_somebody_else_signed_anew_is_noticed() -> None:
    ours, theirs = written({"a": "1"}), written({"a": "1"}, key=generate_key())
    keys = {public_key_der(KEY.public_key())}
    check_signers(ours, keys)
    with pytest.raises(VestibuleError, match="VST1030"):
        check_signers(read_transcript(render(theirs)), keys)


@pytest.mark.parametrize(
    "facts", [{"a": "b\nhash: c"}, {"a": " b"}, {"hash": "b"}, {"A": "b"}, {"a: b": "c"}, {"a": "b\u2028c"}]
)
def test_a_fact_can_not_pretend_to_be_another_line(facts: dict[str, str]) -> None:
    with pytest.raises(VestibuleError, match="VST1030"):
        written(facts)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for each in (text, text + "\n\n", f"==== step 1 ====\n{text}\n\n"):
        if each:
            with pytest.raises(VestibuleError, match="VST1030"):
                read_transcript(each)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_witness_needs_no_more_than_sha256sum_and_openssl(tmp_path: Path) -> None:
    (signed,) = written({"name": "prod"})
    (tmp_path / "transcript.txt").write_text(signed.render())
    script = """
        set -e
        field() { sed -n "s/^$1: //p" transcript.txt; }
        sed '/^hash: /,$d' transcript.txt > text
        test "$(sha256sum < text | cut -d' ' -f1)" = "$(field hash)"
        field signature | base64 -d > signature
        field public-key | base64 -d > key
        openssl dgst -sha256 -verify key -keyform DER -signature signature text
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Verified OK"), done.stderr
