"""``docs/authorization.md``: what it shows of files holds in them, and it lists what conditions may speak of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from joserfc.jwk import ECKey
from tests.unit.intent.reading import MESH, PAYMENTS, accepted

from vestibule.intent import load_files
from vestibule.policy.vocabulary import NAMES

PAGE = (Path(__file__).parents[3] / "docs" / "authorization.md").read_text(encoding="utf-8")
FRAGMENTS = re.findall(r"^```yaml\n# in ([a-z/]+\.yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("file", "text"), FRAGMENTS)
def test_what_is_shown_of_a_file_holds_in_it(file: str, text: str) -> None:
    key = ECKey.generate_key("P-256", {"kid": "1"}).as_dict(private=False)
    files = {
        "mesh.yaml": MESH + (text if file == "mesh.yaml" else ""),
        "services/payments.yaml": PAYMENTS + (text if file == "services/payments.yaml" else ""),
        "keys/internal.json": json.dumps({"keys": [key]}),
        **{f"services/{name}.yaml": f"service: {name}\n" for name in ("orders", "reports", "web")},
    }
    accepted(load_files({name: content.encode() for name, content in files.items()}))


def test_every_name_that_conditions_may_speak_of_is_listed() -> None:
    assert FRAGMENTS
    assert [name for name in NAMES if f"| `{name}` |" not in PAGE] == []
