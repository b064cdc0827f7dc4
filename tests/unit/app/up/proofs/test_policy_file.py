"""Rules are taken out of a file that people wrote, and the file is put back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestibule.app.up.proofs.policy_file import PolicyFile, without
from vestibule.app.up.proofs.proof import CannotTry

TEXT = b"""# who may charge
service: payments
ports: {http: {protocol: http}}
allow:
  - id: charge     # the till
    from: [orders]
  - id: look-up
    from: [orders]
deny_detail: code
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "payments.yaml").write_bytes(TEXT)
    return tmp_path


def test_a_removed_rule_is_gone_and_all_else_stays() -> None:
    left = without(TEXT, "payments", ["payments/charge"]).decode()
    assert "id: charge" not in left
    assert "id: look-up" in left
    assert left.startswith("# who may charge\nservice: payments\n")
    assert "deny_detail: code" in left


def test_all_rules_can_go() -> None:
    assert b"allow: []" in without(TEXT, "payments", ["payments/charge", "payments/look-up"])


def test_a_rule_that_is_not_there_proves_nothing() -> None:
    with pytest.raises(CannotTry):
        without(TEXT, "payments", ["payments/other"])
    with pytest.raises(CannotTry):
        without(b"service: payments\n", "payments", ["payments/charge"])


def test_the_file_is_put_back_byte_for_byte(directory: Path) -> None:
    path = directory / "services" / "payments.yaml"
    with PolicyFile(directory, "payments") as file:
        file.remove(["payments/charge"])
        assert path.read_bytes() != TEXT
        file.put_back()
        assert path.read_bytes() == TEXT
    assert path.read_bytes() == TEXT


def test_the_file_is_put_back_when_the_proof_fails(directory: Path) -> None:
    path = directory / "services" / "payments.yaml"
    with pytest.raises(CannotTry), PolicyFile(directory, "payments") as file:  # noqa: PT012
        file.remove(["payments/charge"])
        file.remove(["payments/none"])
    assert path.read_bytes() == TEXT
    assert [each.name for each in path.parent.iterdir()] == ["payments.yaml"]


def test_both_endings_of_yaml_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    path = tmp_path / "services" / "payments.yml"
    path.write_bytes(TEXT)
    with PolicyFile(tmp_path, "payments") as file:
        file.remove(["payments/charge"])
        assert path.read_bytes() != TEXT
